package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Linux's numbers, which CRIU's images have on every machine.
const (
	familyInet6 = 10

	socketStream = 1

	protocolTCP = 6

	stateClose  = 7
	stateListen = 10

	unixExternal = 1 << 0 // CRIU's flag for a socket of a process that is not dumped
)

var socketTypes = map[uint32]string{socketStream: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket", 10: "packet"}

func socketType(n uint32) string {
	if s, ok := socketTypes[n]; ok {
		return s
	}
	return fmt.Sprintf("type %d", n)
}

// socketStates are TCP's, which other sockets share.
var socketStates = map[uint32]string{
	1: "established", 2: "syn-sent", 3: "syn-recv", 4: "fin-wait-1", 5: "fin-wait-2", 6: "time-wait",
	stateClose: "close", 8: "close-wait", 9: "last-ack", stateListen: "listen", 11: "closing", 12: "syn-recv",
}

// socketFamilies are the families of sockets of which the images may tell no more.
var socketFamilies = map[fdinfo.FdTypes]manifest.Socket{
	fdinfo.FdTypes_INETSK:    {Family: "inet"},
	fdinfo.FdTypes_UNIXSK:    {Family: "unix"},
	fdinfo.FdTypes_PACKETSK:  {Family: "packet"},
	fdinfo.FdTypes_NETLINKSK: {Family: "netlink", Type: "raw"}, // CRIU restores them all so
}

// socket returns what is known of a file that is a socket.
func (o *openFiles) socket(f fileID) (manifest.Socket, bool) {
	s, ok := o.socks[f]
	if !ok {
		s, ok = socketFamilies[f.kind]
		return s, ok
	}
	if peer, ok := o.unix.peers[f]; ok {
		s.Remote = o.unix.names[peer]
	}
	return s, ok
}

// connected reports whether a restore of the socket is one of a TCP connection.
func connected(e *sk_inet.InetSkEntry) bool {
	return e.GetType() == socketStream && e.GetProto() == protocolTCP && e.GetState() != stateClose && e.GetState() != stateListen
}

func inetSocket(e *sk_inet.InetSkEntry) manifest.Socket {
	s := manifest.Socket{Family: "inet", Type: socketType(e.GetType()), State: socketStates[e.GetState()]}
	if e.GetFamily() == familyInet6 {
		s.Family = "inet6"
	}
	s.Local = inetAddress(e.GetSrcAddr(), e.GetSrcPort())
	if e.GetDstPort() != 0 {
		s.Remote = inetAddress(e.GetDstAddr(), e.GetDstPort())
	}
	return s
}

// packetSocket takes a packet socket, of whose fields some are lists.
func (o *openFiles) packetSocket(record []byte) error {
	var id, kind uint32
	err := criu.Fields(record, func(f criu.Field) error {
		switch f.Number {
		case 1:
			id = uint32(f.Value)
		case 2:
			kind = uint32(f.Value)
		}
		return nil
	})
	o.socks[fileID{fdinfo.FdTypes_PACKETSK, id}] = manifest.Socket{Family: "packet", Type: socketType(kind)}
	return err
}

// inetAddress returns address:port, or "" for what is no address. CRIU keeps
// the bytes of an address as the machine's words, little-endian ones here.
func inetAddress(words []uint32, port uint32) string {
	var b []byte
	for _, w := range words[:min(len(words), 4)] {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return ""
	}
	return netip.AddrPortFrom(addr, uint16(port)).String()
}

// unixSockets is what is known of Unix sockets.
type unixSockets struct {
	names map[uint32]string // by inode
	peers map[fileID]uint32 // the inode at the other end
}

// add takes a Unix socket. Its remote name is known only after all are taken.
func (u *unixSockets) add(id fileID, e *sk_unix.UnixSkEntry) manifest.Socket {
	name := unixName(e)
	u.names[e.GetIno()] = name
	if e.GetPeer() != 0 {
		u.peers[id] = e.GetPeer()
	}
	return manifest.Socket{Family: "unix", Type: socketType(e.GetType()), State: socketStates[e.GetState()], Local: name}
}

// unixName returns the path of a Unix socket, or @ and its abstract name.
func unixName(e *sk_unix.UnixSkEntry) string {
	name := string(e.GetName())
	if abstract, ok := strings.CutPrefix(name, "\x00"); ok {
		return text("@" + abstract)
	}
	name = strings.TrimRight(name, "\x00")
	if dir := e.GetNameDir(); dir != "" && name != "" && !strings.HasPrefix(name, "/") {
		name = strings.TrimSuffix(dir, "/") + "/" + name
	}
	return text(name)
}
