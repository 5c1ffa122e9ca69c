package firecracker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// apiThread is what Firecracker calls the thread that answers at its socket.
const apiThread = "fc_api"

// serve answers at a socket, from one thread that does nothing else and sleeps in the kernel meanwhile.
func (v *vm) serve(socket string, listening chan<- struct{}) error {
	runtime.LockOSThread()
	name, err := unix.BytePtrFromString(apiThread)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0); err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: socket}); err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	if err := unix.Listen(listener, 10); err != nil {
		return err
	}
	close(listening)
	open := map[int][]byte{} // what was read on each connection and not answered yet
	for {
		polled := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		for fd := range open {
			polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(polled, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		for _, p := range polled {
			switch fd := int(p.Fd); {
			case p.Revents == 0:
			case fd == listener:
				conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				if err == nil {
					open[conn] = nil
				}
			default:
				if rest, ok := v.read(fd, open[fd]); ok {
					open[fd] = rest
				} else {
					delete(open, fd)
					unix.Close(fd)
				}
			}
		}
	}
}

// read reads from a connection, and answers the requests that are whole.
func (v *vm) read(fd int, had []byte) (rest []byte, ok bool) {
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	if err != nil || n <= 0 {
		return nil, false
	}
	rest = append(had, buf[:n]...)
	for {
		head := bytes.Index(rest, []byte("\r\n\r\n"))
		if head < 0 {
			return rest, len(rest) < 51200 // as much as Firecracker takes
		}
		reader := bytes.NewReader(rest)
		buffered := bufio.NewReaderSize(reader, len(rest)+1)
		req, err := http.ReadRequest(buffered)
		if err != nil {
			return nil, false
		}
		if int64(len(rest)-head-4) < req.ContentLength {
			return rest, true
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, false
		}
		if !answer(fd, v.handle(req, body)) {
			return nil, false
		}
		rest = rest[len(rest)-buffered.Buffered()-reader.Len():]
		if len(rest) == 0 {
			return nil, true
		}
	}
}

func answer(fd int, text []byte) bool {
	for len(text) > 0 {
		n, err := unix.SendmsgN(fd, text, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return false
		}
		text = text[n:]
	}
	return true
}

// handle returns the bytes of an answer.
func (v *vm) handle(req *http.Request, body []byte) []byte {
	switch req.Method + " " + req.URL.Path {
	case "GET /":
		return content(map[string]any{"id": "anonymous-instance", "state": v.status().State, "vmm_version": v.opts.Version, "app_name": "Firecracker"})
	case "GET /machine-config":
		return content(map[string]any{"vcpu_count": 1, "mem_size_mib": v.opts.MemoryMiB, "smt": false, "track_dirty_pages": !v.opts.Untracked, "huge_pages": "None"})
	case "PATCH /vm":
		var p struct {
			State *string `json:"state"`
		}
		if err := decode(body, &p); err != nil {
			return fault(err)
		}
		states := map[string]string{"Paused": "Paused", "Resumed": "Running"}
		if p.State == nil || states[*p.State] == "" {
			return fault(refusal("An error occurred when deserializing the json body of a request: unknown variant, expected `Paused` or `Resumed`."))
		}
		return done(v.setState(states[*p.State]))
	case "PUT /snapshot/create":
		var p struct {
			Type   string `json:"snapshot_type"`
			State  string `json:"snapshot_path"`
			Memory string `json:"mem_file_path"`
		}
		p.Type = "Full"
		if err := decode(body, &p); err != nil {
			return fault(err)
		}
		if p.State == "" || p.Memory == "" || p.Type != "Full" && p.Type != "Diff" {
			return fault(refusal("An error occurred when deserializing the json body of a request: missing field."))
		}
		return v.spoilt(v.create(p.Type, p.State, p.Memory))
	}
	return fault(refusal("Invalid request method and/or path: " + req.Method + " " + req.URL.Path + "."))
}

func (v *vm) spoilt(spoil string, err error) []byte {
	switch spoil {
	case Garbage:
		return []byte("\x00\x01\x02 no HTTP at all\r\n\r\n")
	case Hang:
		<-v.goOn
	case Die:
		os.Exit(0)
	}
	return done(err)
}

func decode(body []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return refusal("An error occurred when deserializing the json body of a request: " + err.Error() + ".")
	}
	return nil
}

func done(err error) []byte {
	if err != nil {
		return fault(err)
	}
	return []byte("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n")
}

func fault(err error) []byte {
	return reply("400", map[string]any{"fault_message": err.Error()})
}

func content(v any) []byte { return reply("200", v) }

func reply(status string, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return []byte("HTTP/1.1 " + status + " \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(b)) + "\r\n\r\n" + string(b))
}
