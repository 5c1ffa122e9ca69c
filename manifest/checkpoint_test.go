package manifest

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

// goldenCheckpoint is what testdata/v1/checkpoint.json holds.
func goldenCheckpoint() *Checkpoint {
	return &Checkpoint{
		Format: 1, Engine: "podman", Name: "web-1", Image: "docker.io/library/redis:7", CRIU: "4.2.1",
		Options: CheckpointOptions{TCPEstablished: true, External: []string{"mnt[/data]:data"}},
		Processes: []Process{
			{PID: 1, Group: 1, Session: 1, Name: "redis-server", State: "running", Threads: 5, Mapped: 70 << 20, Memory: 12 << 20},
			{PID: 7, Parent: 1, Group: 1, Session: 1, Name: "sh", State: "stopped", Threads: 1, Mapped: 2 << 20, Memory: 400 << 10},
		},
		Files:   []OpenFile{{PID: 1, FD: 0, Type: "file", Path: "/dev/null"}, {PID: 1, FD: 3, Type: "epoll"}},
		Sockets: []Socket{{PID: 1, FD: 6, Family: "inet", Type: "stream", State: "established", Local: "127.0.0.1:6379", Remote: "127.0.0.1:40112"}},
	}
}

func TestCheckpoint(t *testing.T) {
	c := goldenCheckpoint()
	c.Format = 0
	b, err := c.Encode()
	if err != nil || c.Format != 0 {
		t.Fatalf("%v; the format is %d", err, c.Format)
	}
	golden, err := os.ReadFile("testdata/v1/checkpoint.json")
	if err != nil || string(golden) != string(b) {
		t.Errorf("%v; it encodes to\n%s\nnot\n%s", err, b, golden)
	}
	got, err := DecodeCheckpoint(golden)
	if want := goldenCheckpoint(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "{", "[]", "null", string(b) + "{}", `{"format": -1}`, `{"format": 1, "processes": 7}`} {
		if c, err := DecodeCheckpoint([]byte(text)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	if _, err := DecodeCheckpoint([]byte(`{"format": 2}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("newer: %v", err)
	}
	if _, err := DecodeCheckpoint(make([]byte, MaxCheckpointSize+1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("too large: %v", err)
	}
	if _, err := (&Checkpoint{Name: strings.Repeat("x", MaxCheckpointSize)}).Encode(); !errors.Is(err, ErrInvalid) {
		t.Errorf("too large: %v", err)
	}
	if _, err := (&Checkpoint{Files: []OpenFile{{Path: "\xff"}}}).Encode(); !errors.Is(err, ErrInvalid) {
		t.Errorf("no text: %v", err)
	}
}
