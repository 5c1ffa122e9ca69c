package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fifo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	packet_sock "github.com/checkpoint-restore/go-criu/v7/crit/images/packet-sock"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// encodeImage returns an image file of records.
func encodeImage(t criu.Type, records ...proto.Message) []byte {
	var b []byte
	if t != criu.TypeInventory {
		b = binary.LittleEndian.AppendUint32(b, 0x54564319)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	for _, m := range records {
		record, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
	}
	return b
}

func u32(n uint32) *uint32 { return &n }

// testImages are images of two processes, as old CRIUs wrote them: a file for
// each type of open file.
func testImages() map[string][]byte {
	fd := func(number, id uint32, kind fdinfo.FdTypes) proto.Message {
		return &fdinfo.FdinfoEntry{Fd: u32(number), Id: u32(id), Type: &kind}
	}
	return map[string][]byte{
		"inventory.img": encodeImage(criu.TypeInventory, &inventory.InventoryEntry{ImgVersion: u32(2)}),
		"pstree.img": encodeImage(criu.TypePstree,
			&pstree.PstreeEntry{Pid: u32(9), Ppid: u32(7), Pgid: u32(9), Sid: u32(6), Threads: []uint32{9}},
			&pstree.PstreeEntry{Pid: u32(7), Ppid: u32(0), Pgid: u32(7), Sid: u32(6), Threads: []uint32{7, 8}}),
		"core-7.img": encodeImage(criu.TypeCore, &criu_core.CoreEntry{
			Tc: &criu_core.TaskCoreEntry{Comm: proto.String("na\xffme"), TaskState: u32(3)}, Ids: &criu_core.TaskKobjIdsEntry{FilesId: u32(1)}}),
		"core-9.img": encodeImage(criu.TypeCore, &criu_core.CoreEntry{Tc: &criu_core.TaskCoreEntry{Comm: proto.String("dead"), TaskState: u32(6)}}),
		"ids-9.img":  encodeImage(criu.TypeIDs, &criu_core.TaskKobjIdsEntry{FilesId: u32(2)}),
		"mm-7.img": encodeImage(criu.TypeMM, &mm.MmEntry{Vmas: []*vma.VmaEntry{
			{Start: proto.Uint64(0x1000), End: proto.Uint64(0x4000)}, {Start: proto.Uint64(0x10000), End: proto.Uint64(0x11000)}}}),
		"pagemap-7.img": []byte(pagemapHere),
		"pages-1.img":   []byte(onePage),
		"fdinfo-1.img": encodeImage(criu.TypeFdinfo, fd(4, 1, fdinfo.FdTypes_INETSK), fd(0, 1, fdinfo.FdTypes_REG), fd(3, 1, fdinfo.FdTypes_FIFO),
			fd(5, 2, fdinfo.FdTypes_UNIXSK), fd(6, 3, fdinfo.FdTypes_UNIXSK), fd(7, 1, fdinfo.FdTypes_NETLINKSK), fd(8, 1, fdinfo.FdTypes_PACKETSK),
			fd(9, 1, 20), fd(10, 1, 77), fd(11, 5, fdinfo.FdTypes_INETSK)),
		"fdinfo-2.img":    encodeImage(criu.TypeFdinfo, fd(1, 2, fdinfo.FdTypes_REG)),
		"reg-files.img":   encodeImage(criu.TypeRegFiles, &regfile.RegFileEntry{Id: u32(1), Name: proto.String("/ein \"Wort\" für")}, &regfile.RegFileEntry{Id: u32(2), Name: proto.String("/a\nb")}),
		"fifo.img":        encodeImage(criu.TypeFIFO, &fifo.FifoEntry{Id: u32(1), RegfId: u32(2)}),
		"packetsk.img":    encodeImage(criu.TypePacket, &packet_sock.PacketSockEntry{Id: u32(1), Type: u32(3)}),
		"inetsk.img":      encodeImage(criu.TypeInet, &sk_inet.InetSkEntry{Id: u32(1), Family: u32(10), Type: u32(1), Proto: u32(6), State: u32(1), SrcPort: u32(80), DstPort: u32(99), SrcAddr: []uint32{0, 0, 0, 0x01000000}, DstAddr: []uint32{0x000080fe, 0, 0, 0x02000000}}),
		"unixsk.img":      encodeImage(criu.TypeUnix, &sk_unix.UnixSkEntry{Id: u32(2), Ino: u32(20), Peer: u32(30), Type: u32(2), State: u32(7), Uflags: u32(1)}, &sk_unix.UnixSkEntry{Id: u32(3), Ino: u32(30), Type: u32(5), State: u32(10), Name: []byte("a\x00"), NameDir: proto.String("/run/")}),
		"filelocks.img":   encodeImage(criu.TypeFileLocks),
		"sk-queues.img":   []byte("not read"),
		"pagemap-old.txt": []byte("not read"),
	}
}

func asImages(files map[string][]byte) criu.Images {
	images := criu.Images{}
	for name, b := range files {
		images[name] = bytes.NewReader(b)
	}
	return images
}

func TestDescribeOld(t *testing.T) {
	c, warnings, err := Describe(asImages(testImages()))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	want := &manifest.Checkpoint{
		Engine:  "criu",
		Options: manifest.CheckpointOptions{TCPEstablished: true, ShellJob: true, ExtUnixSockets: true},
		Processes: []manifest.Process{
			{PID: 7, Group: 7, Session: 6, Name: `na\xffme`, State: "stopped", Threads: 2, Mapped: 0x4000, Memory: 4096},
			{PID: 9, Parent: 7, Group: 9, Session: 6, Name: "dead", State: "zombie", Threads: 1},
		},
		Files: []manifest.OpenFile{
			{PID: 7, FD: 0, Type: "file", Path: `/ein "Wort" für`}, {PID: 7, FD: 3, Type: "fifo", Path: `/a\nb`},
			{PID: 7, FD: 9, Type: "pidfd"}, {PID: 7, FD: 10, Type: "type 77"}, {PID: 9, FD: 1, Type: "file", Path: `/a\nb`},
		},
		Sockets: []manifest.Socket{
			{PID: 7, FD: 4, Family: "inet6", Type: "stream", State: "established", Local: "[::1]:80", Remote: "[fe80::2]:99"},
			{PID: 7, FD: 5, Family: "unix", Type: "dgram", State: "close", Remote: "/run/a"},
			{PID: 7, FD: 6, Family: "unix", Type: "seqpacket", State: "listen", Local: "/run/a"},
			{PID: 7, FD: 7, Family: "netlink", Type: "raw"}, {PID: 7, FD: 8, Family: "packet", Type: "raw"}, {PID: 7, FD: 11, Family: "inet"},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v\nwant %+v", c, want)
	}
}

func TestDescribeWarns(t *testing.T) {
	files := testImages()
	files["pagemap-7.img"] = []byte(pagemapHere[:14] + "\x07" + pagemapHere[15:] + "\x30\x05") // field 6
	files["pagemap-shmem-5.img"] = []byte(strings.Replace(pagemapParent, "\x08\x01", "\x08\x02", 1))
	files["pages-2.img"] = nil
	_, warnings, err := Describe(asImages(files))
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], "compressed") || !strings.Contains(warnings[1], "cannot be restored alone") {
		t.Errorf("%q, %v", warnings, err)
	}
}

// TestDescribeDamage cuts each image, and leaves each out.
func TestDescribeDamage(t *testing.T) {
	whole := testImages()
	for name, b := range whole {
		if strings.HasPrefix(name, "sk-queues") || strings.HasPrefix(name, "pagemap-old") || len(b) <= 8 {
			continue
		}
		files := maps.Clone(whole)
		files[name] = b[:len(b)-1]
		_, _, err := Describe(asImages(files))
		var image *criu.ImageError
		if !errors.As(err, &image) || image.Name != name {
			t.Errorf("%s cut: %v", name, err)
		}
		delete(files, name)
		_, _, err = Describe(asImages(files))
		needed := slices.Contains([]string{"inventory.img", "pstree.img", "pages-1.img"}, name)
		if (err != nil) != needed {
			t.Errorf("%s left out: %v", name, err)
		}
	}
}

// TestDescribeBounded: as many processes that share as many files would be a
// description of as many as both multiplied.
func TestDescribeBounded(t *testing.T) {
	files := testImages()
	var tree, fds []proto.Message
	for i := range uint32(200) {
		tree = append(tree, &pstree.PstreeEntry{Pid: u32(i + 1), Ppid: u32(i)})
		core := &criu_core.CoreEntry{Ids: &criu_core.TaskKobjIdsEntry{FilesId: u32(1)}}
		files[fmt.Sprintf("core-%d.img", i+1)] = encodeImage(criu.TypeCore, core)
		fds = append(fds, &fdinfo.FdinfoEntry{Fd: u32(i), Id: u32(1), Type: fdinfo.FdTypes_REG.Enum()})
	}
	files["pstree.img"] = encodeImage(criu.TypePstree, tree...)
	files["fdinfo-1.img"] = encodeImage(criu.TypeFdinfo, fds...)
	files["reg-files.img"] = encodeImage(criu.TypeRegFiles, &regfile.RegFileEntry{Id: u32(1), Name: proto.String(strings.Repeat("/directory", 1000))})
	c, warnings, err := Describe(asImages(files))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "left out") {
		t.Errorf("warnings: %q", warnings)
	}
	if _, err := c.Encode(); err != nil {
		t.Error(err)
	}
}

// TestDescribeAllocates: a message that is empty has two bytes in an image, and
// a hundred in memory. Lists of such must not be decoded.
func TestDescribeAllocates(t *testing.T) {
	const size = 4 << 20
	list := func(numbers ...protowire.Number) []byte {
		b := bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, numbers[len(numbers)-1], protowire.BytesType), nil), size/2)
		for _, n := range slices.Backward(numbers[:len(numbers)-1]) {
			b = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
		}
		return b
	}
	for name, test := range map[string]struct {
		t      criu.Type
		record []byte
	}{
		"core-7.img":   {criu.TypeCore, list(3, 10, 1)}, // signals
		"mm-7.img":     {criu.TypeMM, list(14)},         // mappings
		"files.img":    {criu.TypeFiles, list(9, 5)},    // what an epoll waits for
		"packetsk.img": {criu.TypePacket, list(15)},
		"inetsk.img":   {criu.TypeInet, list(16)},
	} {
		files := testImages()
		files[name] = encodeImage(test.t)
		files[name] = append(binary.LittleEndian.AppendUint32(files[name], uint32(len(test.record))), test.record...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := Describe(asImages(files))
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 8*size {
			t.Errorf("%s: %d bytes allocated for %d (%v)", name, took, size, err)
		}
	}
}

// FuzzDescribe puts other bytes in the place of one image.
func FuzzDescribe(f *testing.F) {
	whole := testImages()
	names := slices.Sorted(maps.Keys(whole))
	for i, name := range names {
		f.Add(uint8(i), whole[name])
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		files := maps.Clone(whole)
		files[names[int(which)%len(names)]] = b
		c, _, err := Describe(asImages(files))
		if err != nil {
			return
		}
		if _, err := c.Encode(); err != nil {
			t.Error(err)
		}
	})
}
