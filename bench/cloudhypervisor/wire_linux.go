package cloudhypervisor

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Numbers of commands.
const (
	CmdStart          = 1
	CmdConfig         = 2
	CmdState          = 3
	CmdMemory         = 4
	CmdComplete       = 5
	CmdAbandon        = 6
	CmdMemoryFd       = 7
	CmdCompletePaused = 8
	CmdPageFault      = 9
)

const (
	statusOK    = 1
	statusError = 2
	roleFault   = 2
)

// Header returns a request's first 16 bytes; version is of a Start.
func Header(command, version uint16, length uint64) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint16(b[0:], command)
	binary.LittleEndian.PutUint16(b[2:], version)
	binary.LittleEndian.PutUint64(b[8:], length)
	return b
}

// SendFile sends what follows the header of a MemoryFd: a slot, and files, of which there should be one.
func SendFile(c *net.UnixConn, slot uint32, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(binary.LittleEndian.AppendUint32(nil, slot), rights, nil)
	return err
}

// ReadAnswer reads an answer's 16 bytes. One that is no OK without a payload is an error.
func ReadAnswer(c *net.UnixConn) error {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	status, length := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint64(b[8:])
	for _, rest := range b[2:8] {
		if rest != 0 {
			return fmt.Errorf("an answer with %x where zeros are", b[2:8])
		}
	}
	if status == statusError && length == 0 {
		return ErrAnswer
	}
	if status != statusOK || length != 0 {
		return fmt.Errorf("an answer of status %d with %d bytes", status, length)
	}
	return nil
}

// ErrAnswer is the answer that says that something failed.
var ErrAnswer = fmt.Errorf("the other end answered with an error")

// answer writes an answer.
func answer(c *net.UnixConn, err error) error {
	b := make([]byte, 16)
	b[0] = statusOK
	if err != nil {
		b[0] = statusError
	}
	_, werr := c.Write(b)
	return werr
}

// readHeader reads a request's first 16 bytes.
func readHeader(c *net.UnixConn) (command, version uint16, length uint64, err error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		return 0, 0, 0, err
	}
	return binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint64(b[8:]), nil
}

// receiveFile reads what follows the header of a MemoryFd.
func receiveFile(c *net.UnixConn) (uint32, *os.File, error) {
	b, control := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, cn, _, _, err := c.ReadMsgUnix(b, control)
	if err != nil {
		return 0, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil || n != 4 || len(messages) != 1 {
		return 0, nil, fmt.Errorf("no file came with %d bytes: %w", n, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, nil, fmt.Errorf("%d files: %w", len(fds), err)
	}
	return binary.LittleEndian.Uint32(b), os.NewFile(uintptr(fds[0]), "slot"), nil
}
