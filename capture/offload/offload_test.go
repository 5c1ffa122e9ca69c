package offload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The bytes of messages, as the protocol has them.
func TestMessages(t *testing.T) {
	for _, test := range []struct {
		request Request
		want    string
	}{
		{Request{Command: Start}, "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: SendConfig, Length: 0x1234}, "\x02\x00\x00\x00\x00\x00\x00\x00\x34\x12\x00\x00\x00\x00\x00\x00"},
		{Request{Command: SendState, Length: 1}, "\x03\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: SendMemory, Length: 1 << 40}, "\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00"},
		{Request{Command: Complete}, "\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: Abandon}, "\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: SendMemoryFile, Length: 4}, "\x07\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: CompletePaused}, "\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Request{Command: PageFault, Length: 16}, "\x09\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00"},
	} {
		if got := test.request.Append(nil); string(got) != test.want {
			t.Errorf("%s: %x", test.request.Command, got)
		}
		if got, err := ParseRequest([]byte(test.want)); err != nil || got != test.request {
			t.Errorf("%x: %+v, %v", test.want, got, err)
		}
	}
	for name, b := range map[string]string{
		"no command":           "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"unknown command":      "\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"another byte order":   "\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"version 1":            "\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"a start with payload": "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
		"an empty config":      "\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"too long a config":    "\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x10\x00\x00\x00\x00",
		"a slot of 8 bytes":    "\x07\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00",
		"two ranges":           "\x09\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00",
		"too short":            "\x01\x00\x00",
	} {
		if r, err := ParseRequest([]byte(b)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	// What follows the version is not defined.
	if _, err := ParseRequest([]byte("\x01\x00\x00\x00\xaa\xbb\xcc\xdd\x00\x00\x00\x00\x00\x00\x00\x00")); err != nil {
		t.Error(err)
	}
	if b := (Range{GPA: 0x1000, Length: 0x2000}).Append(nil); string(b) != "\x00\x10\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%x", b)
	}
	for b, want := range map[string]error{
		"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": nil,
		"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": ErrRefused,
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": ErrProtocol,
		"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00": ErrProtocol,
		"\x01": ErrProtocol,
	} {
		if err := parseAnswer([]byte(b)); !errors.Is(err, want) {
			t.Errorf("%x: %v", b, err)
		}
	}
	if b := string(appendAnswer(nil, true)); b != "\x01"+strings.Repeat("\x00", 15) {
		t.Errorf("%x", b)
	}
	if b := string(appendAnswer(nil, false)); b != "\x02"+strings.Repeat("\x00", 15) {
		t.Errorf("%x", b)
	}
}

const twoPieces = `{"vm_config":{"cpus":{}},"common_cpuid":[],"memory_manager_data":{"guest_ram_mappings":[
	{"slot":5,"gpa":1048576,"size":8192,"zone_id":"a","virtio_mem":false,"file_offset":4096},
	{"slot":1,"gpa":0,"size":4096,"zone_id":"a","virtio_mem":false,"file_offset":0}]}}`

func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(twoPieces))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.VM) != `{"cpus":{}}` || c.Size != 12288 || len(c.Mappings) != 2 ||
		c.Mappings[0] != (Mapping{Slot: 1, Size: 4096}) || c.Mappings[1] != (Mapping{Slot: 5, GPA: 1 << 20, Size: 8192, FileOffset: 4096, Offset: 4096}) {
		t.Errorf("%+v", c)
	}
	for _, test := range []struct {
		r    Range
		want int // -1 for none
	}{
		{Range{0, 4096}, 0}, {Range{0, 4097}, -1}, {Range{4096, 1}, -1}, {Range{1 << 20, 8192}, 1}, {Range{1<<20 + 4096, 4096}, 1},
		{Range{1<<20 + 4096, 8192}, -1}, {Range{1 << 20, 0}, -1}, {Range{1 << 20, 1<<64 - 1}, -1}, {Range{1<<64 - 1, 1}, -1},
	} {
		if i, ok := c.Find(test.r); ok != (test.want >= 0) || ok && i != test.want {
			t.Errorf("%+v: %d, %v", test.r, i, ok)
		}
	}
	var got []int64
	err = c.Pieces(4000, 5000, func(i int, at, from, to int64) error {
		got = append(got, int64(i), at, from, to)
		return nil
	})
	if want := []int64{0, 4000, 0, 96, 1, 0, 96, 5000}; err != nil || len(got) != len(want) {
		t.Errorf("%v, %v", got, err)
	} else {
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%v", got)
			}
		}
	}
	for _, off := range []int64{-1, 12288, 12000} {
		if err := c.Pieces(off, 4096, func(int, int64, int64, int64) error { return nil }); err == nil {
			t.Errorf("4096 bytes at %d are in the memory", off)
		}
	}
	for from, to := range map[string]string{
		`"slot":5`:                 `"slot":1`,
		`"gpa":1048576`:            `"gpa":0`,
		`"gpa":1048576,`:           ``,
		`"size":8192`:              `"size":0`,
		`"size":8192,`:             `"size":8192.5,`,
		`"size":4096`:              `"size":4095`,
		`"file_offset":4096`:       `"file_offset":9223372036854771712`,
		`"file_offset":0`:          `"file_offset":-1`,
		`"vm_config":{"cpus":{}},`: ``,
		`guest_ram_mappings`:       `mappings`,
		`"gpa":0,"size":4096`:      `"gpa":18446744073709547520,"size":8192`,
		`]}}`:                      `]}`,
	} {
		changed := strings.Replace(twoPieces, from, to, 1)
		if changed == twoPieces {
			t.Fatal(from)
		}
		if c, err := ParseConfig([]byte(changed)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v, %v", to, c, err)
		}
	}
}

// pair returns two ends of a connection.
func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	l, err := Listen(filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan *Conn, 1)
	go func() {
		c, err := Dial(context.Background(), l.l.Addr().String(), time.Second)
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	if a, err = l.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = <-dialled
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "offload")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A file comes with its slot, whatever was sent before and after.
func TestFiles(t *testing.T) {
	a, b := pair(t)
	done := make(chan error, 1)
	go func() {
		f, err := os.Open(os.DevNull)
		if err == nil {
			defer f.Close()
			err = errors.Join(b.Ask(Start, nil), b.AskFile(9, f), b.AskFile(10, f), b.Ask(SendConfig, []byte("{}")))
		}
		done <- err
	}()
	for _, want := range []Command{Start, SendMemoryFile, SendMemoryFile, SendConfig} {
		r, err := a.ReadRequest()
		if err != nil || r.Command != want {
			t.Fatalf("%+v, %v", r, err)
		}
		switch want {
		case SendMemoryFile:
			slot, f, err := a.ReadFile()
			if err != nil || slot < 9 || slot > 10 {
				t.Fatal(slot, err)
			}
			if info, err := f.Stat(); err != nil || info.Mode()&fs.ModeCharDevice == 0 {
				t.Error(info, err)
			}
			f.Close()
		case SendConfig:
			if d, err := a.ReadDocument(r); err != nil || string(d) != "{}" {
				t.Errorf("%s, %v", d, err)
			}
		}
		if err := a.Answer(true); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.Close()
	if _, err := a.ReadRequest(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestCutOff(t *testing.T) {
	for n := range headerSize {
		a, b := pair(t)
		_, _ = b.c.Write(Request{Command: SendState, Length: 100}.Append(nil)[:n])
		b.Close()
		if _, err := a.ReadRequest(); err == nil || n > 0 == errors.Is(err, io.EOF) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	a, b := pair(t)
	_, _ = b.c.Write(bytes.Repeat([]byte{1}, 99))
	b.Close()
	if _, err := a.ReadDocument(Request{Command: SendState, Length: MaxDocument}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, _, err := a.ReadFile(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, err := a.ReadRange(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// Who waits for a peer that says nothing ends with its context, and can still say something.
func TestWhile(t *testing.T) {
	a, b := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	err := a.While(ctx, func() error {
		_, err := a.ReadRequest()
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := errors.Join(a.Answer(false), b.Send(Abandon, nil)); err != nil {
		t.Error(err)
	}
	if r, err := a.ReadRequest(); err != nil || r.Command != Abandon {
		t.Errorf("%+v, %v", r, err)
	}
	if err := b.answered(Start); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("where somebody listens: %v", err)
	}
	l.l.SetUnlinkOnClose(false) // as a process that is killed
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("where a file is: %v", err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), filepath.Join(dir, "none"), 100*time.Millisecond); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestAdmit(t *testing.T) {
	for _, test := range []struct {
		uid, self int
		ok        bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 1001, false}, {1000, 0, false}} {
		if err := admit(test.uid, test.self); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrStranger) {
			t.Errorf("%d to %d: %v", test.uid, test.self, err)
		}
	}
}

// FuzzConversation has a peer send anything: it is understood or an error, and what is understood is written as it came.
func FuzzConversation(f *testing.F) {
	for c := Command(0); c <= PageFault+1; c++ {
		f.Add(Request{Command: c, Length: 16}.Append(nil))
	}
	f.Add(append(Request{Command: SendConfig, Length: uint64(len(twoPieces))}.Append(nil), twoPieces...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			if _, err := ParseRequest(b); err == nil {
				t.Fatal("less than a header is one")
			}
			return
		}
		header, rest := b[:headerSize], b[headerSize:]
		r, err := ParseRequest(header)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseRequest(r.Append(nil))
		if err != nil || again != r {
			t.Fatalf("%+v is %+v again: %v", r, again, err)
		}
		switch r.Command {
		case PageFault:
			if p, err := ParseRange(rest); err == nil && !bytes.Equal(p.Append(nil), rest) {
				t.Fatalf("%+v", p)
			}
		case SendConfig:
			c, err := ParseConfig(rest)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatal(err)
				}
				return
			}
			total := int64(0)
			for i, m := range c.Mappings {
				if m.Offset != total {
					t.Fatalf("%+v", c.Mappings)
				}
				total += m.Size
				if at, ok := c.Find(Range{m.GPA + uint64(m.Size) - 1, 1}); !ok || at != i {
					t.Fatalf("the last byte of %+v is in %d", m, at)
				}
			}
			if total != c.Size {
				t.Fatalf("%d bytes, not %d", c.Size, total)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, true))
	f.Add(appendAnswer(nil, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := parseAnswer(b); err == nil && (b[0] != statusOK || b[1] != 0) {
			t.Fatalf("%x is an answer", b)
		}
	})
}
