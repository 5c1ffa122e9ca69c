package capture

import (
	"cmp"
	"fmt"
	"slices"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fifo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/tty"
	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// fileTypes names CRIU's types of files that are not sockets. Those without a
// name in go-criu are newer than it.
var fileTypes = map[fdinfo.FdTypes]string{
	fdinfo.FdTypes_REG: "file", fdinfo.FdTypes_PIPE: "pipe", fdinfo.FdTypes_FIFO: "fifo",
	fdinfo.FdTypes_EVENTFD: "eventfd", fdinfo.FdTypes_EVENTPOLL: "epoll", fdinfo.FdTypes_INOTIFY: "inotify",
	fdinfo.FdTypes_SIGNALFD: "signalfd", fdinfo.FdTypes_TTY: "tty", fdinfo.FdTypes_FANOTIFY: "fanotify",
	fdinfo.FdTypes_NS: "namespace", fdinfo.FdTypes_TUNF: "tun", fdinfo.FdTypes_EXT: "external",
	fdinfo.FdTypes_TIMERFD: "timerfd", fdinfo.FdTypes_MEMFD: "memfd", fdinfo.FdTypes_BPFMAP: "bpfmap",
	20: "pidfd",
}

// fd is one entry of a table of file descriptors.
type fd struct {
	number uint32
	file   fileID
}

// fileID is what CRIU knows an open file by.
type fileID struct {
	kind fdinfo.FdTypes
	id   uint32
}

// openFiles is what the images tell of open files.
type openFiles struct {
	paths map[fileID]string // of regular files
	named map[fileID]uint32 // the regular file that a FIFO or TTY was opened by
	socks map[fileID]manifest.Socket
	unix  unixSockets
}

// files describes the file descriptors of every process.
func (d *description) files() error {
	open := &openFiles{paths: map[fileID]string{}, named: map[fileID]uint32{}, socks: map[fileID]manifest.Socket{}, unix: unixSockets{names: map[uint32]string{}, peers: map[fileID]uint32{}}}
	if err := d.openFiles(open); err != nil {
		return err
	}
	tables := map[uint32][]fd{}
	for _, p := range d.out.Processes {
		id, ok, err := d.fdTable(p.PID)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if _, ok := tables[id]; !ok {
			if tables[id], err = d.readFDs(id); err != nil {
				return err
			}
		}
		if !d.list(p.PID, tables[id], open) {
			d.warn("the processes have more open files than can be described: some are left out")
			break
		}
	}
	return nil
}

// list describes the file descriptors of a process, and reports whether they fit in.
func (d *description) list(pid int, fds []fd, open *openFiles) bool {
	for _, f := range fds {
		if s, ok := open.socket(f.file); ok {
			s.PID, s.FD = pid, int(f.number)
			if !d.fits(s) {
				return false
			}
			d.out.Sockets = append(d.out.Sockets, s)
			continue
		}
		of := manifest.OpenFile{PID: pid, FD: int(f.number), Type: fileTypes[f.file.kind], Path: open.path(f.file)}
		if of.Type == "" {
			of.Type = fmt.Sprintf("type %d", f.file.kind)
		}
		if !d.fits(of) {
			return false
		}
		d.out.Files = append(d.out.Files, of)
	}
	return true
}

// path returns the path that a file was opened by, or "".
func (o *openFiles) path(f fileID) string {
	if id, ok := o.named[f]; ok {
		f = fileID{fdinfo.FdTypes_REG, id}
	}
	return o.paths[f]
}

// fdTable returns the number of the table of file descriptors that a process has.
func (d *description) fdTable(pid int) (id uint32, ok bool, err error) {
	take := func(record []byte) error {
		e := &criu_core.TaskKobjIdsEntry{}
		if err := criu.Unmarshal(record, e); err != nil {
			return err
		}
		id, ok = e.GetFilesId(), true
		return nil
	}
	err = d.images.Each(fmt.Sprintf("core-%d.img", pid), criu.TypeCore, func(record []byte) error {
		return criu.Fields(record, func(f criu.Field) error {
			if f.Number != 4 {
				return nil
			}
			return take(f.Bytes)
		})
	})
	if err == nil {
		err = d.images.Each(fmt.Sprintf("ids-%d.img", pid), criu.TypeIDs, take)
	}
	return id, ok, err
}

// readFDs reads a table of file descriptors, sorted by their numbers.
func (d *description) readFDs(id uint32) ([]fd, error) {
	fds := []fd{}
	err := d.images.Each(fmt.Sprintf("fdinfo-%d.img", id), criu.TypeFdinfo, func(record []byte) error {
		var f fd
		err := criu.Fields(record, func(field criu.Field) error {
			switch field.Number {
			case 1:
				f.file.id = uint32(field.Value)
			case 3: // also types that go-criu does not know
				f.file.kind = fdinfo.FdTypes(field.Value)
			case 4:
				f.number = uint32(field.Value)
			}
			return nil
		})
		fds = append(fds, f)
		return err
	})
	slices.SortStableFunc(fds, func(a, b fd) int { return cmp.Compare(a.number, b.number) })
	return fds, err
}

// openFiles reads the images of open files: in old CRIUs one a type, in later
// ones one of them all.
func (d *description) openFiles(o *openFiles) error {
	err := d.images.Each("files.img", criu.TypeFiles, func(record []byte) error {
		err := criu.Fields(record, func(f criu.Field) error {
			if f.Number == 6 {
				return o.packetSocket(f.Bytes)
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Without what has lists, such as what an epoll waits for.
		if record, err = criu.Only(record, 1, 2, 3, 4, 16, 17, 19); err != nil {
			return err
		}
		e := &fdinfo.FileEntry{}
		if err := criu.Unmarshal(record, e); err != nil {
			return err
		}
		for _, m := range []proto.Message{e.Reg, e.Isk, e.Usk, e.Fifo, e.Tty} {
			if m.ProtoReflect().IsValid() {
				d.openFile(o, m)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, old := range []struct {
		name string
		t    criu.Type
		m    proto.Message
	}{
		{"reg-files.img", criu.TypeRegFiles, &regfile.RegFileEntry{}},
		{"inetsk.img", criu.TypeInet, &sk_inet.InetSkEntry{}},
		{"unixsk.img", criu.TypeUnix, &sk_unix.UnixSkEntry{}},
		{"fifo.img", criu.TypeFIFO, &fifo.FifoEntry{}},
		{"tty.img", criu.TypeTTY, &tty.TtyFileEntry{}},
	} {
		err = d.images.Each(old.name, old.t, func(record []byte) error {
			err := criu.Unmarshal(record, old.m)
			if err == nil {
				d.openFile(o, old.m)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return d.images.Each("packetsk.img", criu.TypePacket, o.packetSocket)
}

// openFile takes what an image tells of one open file.
func (d *description) openFile(o *openFiles, m proto.Message) {
	switch e := m.(type) {
	case *regfile.RegFileEntry:
		o.paths[fileID{fdinfo.FdTypes_REG, e.GetId()}] = text(e.GetName())
	case *fifo.FifoEntry:
		o.named[fileID{fdinfo.FdTypes_FIFO, e.GetId()}] = e.GetRegfId()
	case *tty.TtyFileEntry:
		o.named[fileID{fdinfo.FdTypes_TTY, e.GetId()}] = e.GetRegfId()
	case *sk_inet.InetSkEntry:
		o.socks[fileID{fdinfo.FdTypes_INETSK, e.GetId()}] = inetSocket(e)
		if connected(e) && !d.tcpClose {
			d.out.Options.TCPEstablished = true
		}
	case *sk_unix.UnixSkEntry:
		id := fileID{fdinfo.FdTypes_UNIXSK, e.GetId()}
		o.socks[id] = o.unix.add(id, e)
		if e.GetUflags()&unixExternal != 0 {
			d.out.Options.ExtUnixSockets = true
		}
	}
}
