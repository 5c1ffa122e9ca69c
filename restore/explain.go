package restore

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// What CRIU says of the commonest reasons for which processes cannot come back.
var (
	saysSize     = regexp.MustCompile(`File (.+) has bad size (\d+) \(expect (\d+)\)`)
	saysMode     = regexp.MustCompile(`File (.+) has bad mode 0*([0-7]+) \(expect 0*([0-7]+)\)`)
	saysMissing  = regexp.MustCompile(`Can't open file (.+) on restore: No such file or directory`)
	saysTaken    = regexp.MustCompile(`Can't bind inet socket .*Address already in use`)
	saysTerminal = regexp.MustCompile(`Don't have tty to inherit`)
	saysMount    = regexp.MustCompile(`No mapping for .* mountpoint`)
)

// explain says of a failed restore what is in its way and what to do about it, where that is known.
func explain(about *manifest.Checkpoint, err error) error {
	var failed *criu.FailedError
	if !errors.As(err, &failed) {
		return err
	}
	why := ""
	if m := saysSize.FindStringSubmatch(failed.Text); m != nil {
		file := absolute(m[1])
		why = fmt.Sprintf("the file %s has the size %s, and had %s when the snapshot was taken: put it back as it was", file, m[2], m[3])
		is, err1 := strconv.ParseInt(m[2], 10, 64)
		was, err2 := strconv.ParseInt(m[3], 10, 64)
		if err1 == nil && err2 == nil && is > was {
			why += fmt.Sprintf(", or cut off what was added since (truncate -s %d %s)", was, file)
		}
	} else if m := saysMode.FindStringSubmatch(failed.Text); m != nil {
		why = fmt.Sprintf("the file %s has the mode %s, and had %s when the snapshot was taken: put it back as it was", absolute(m[1]), m[2], m[3])
	} else if m := saysMissing.FindStringSubmatch(failed.Text); m != nil {
		why = fmt.Sprintf("the file %s, which the processes have open, is not there: put it back", absolute(m[1]))
	} else if saysTaken.MatchString(failed.Text) {
		why = "an address at which the processes listen is in use: end what uses it"
		if taken := takenAddresses(about.Sockets); len(taken) > 0 {
			why = fmt.Sprintf("%s, where the processes listen, is in use: end what uses it", strings.Join(taken, ", "))
		}
	} else if saysTerminal.MatchString(failed.Text) {
		why = "the processes belong to a terminal's session, which is gone: restore the files, and run criu restore --shell-job on them in a terminal"
	} else if saysMount.MatchString(failed.Text) {
		return &explained{ErrContainer.Error(), errors.Join(ErrContainer, err)}
	}
	if why == "" {
		return err
	}
	return &explained{why, err}
}

// explained is an error in clearer words than its own.
type explained struct {
	why string
	err error
}

func (e *explained) Error() string { return e.why }
func (e *explained) Unwrap() error { return e.err }

// absolute returns a path of CRIU's, which lack their first slash.
func absolute(name string) string { return "/" + strings.TrimPrefix(name, "/") }

// takenAddresses returns at which of the addresses of captured sockets nobody can listen now.
func takenAddresses(sockets []manifest.Socket) (taken []string) {
	for _, s := range sockets {
		var err error
		switch {
		case s.Local == "" || s.Remote != "" || !strings.HasPrefix(s.Family, "inet") || slices.Contains(taken, s.Local):
		case s.Type == "stream" && s.State == "listen":
			var l net.Listener
			if l, err = net.Listen("tcp", s.Local); err == nil {
				l.Close()
			}
		case s.Type == "dgram":
			var l net.PacketConn
			if l, err = net.ListenPacket("udp", s.Local); err == nil {
				l.Close()
			}
		}
		if err != nil {
			taken = append(taken, s.Local)
		}
	}
	return taken
}
