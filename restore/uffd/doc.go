// Package uffd is Linux's userfaultfd: [Read] tells of pages that somebody touches and that are not there, [Copy] and [Zero] put
// them there. It knows neither snapshots nor VMMs.
//
// Facts from the manual pages ioctl_userfaultfd(2) and userfaultfd(2), and from include/uapi/linux/userfaultfd.h.
package uffd
