package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestQMP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		peer, err := listener.Accept()
		if err != nil {
			return
		}
		defer peer.Close()
		fmt.Fprintln(peer, `{"QMP": {"version": {}, "capabilities": []}}`)
		commands := json.NewDecoder(peer)
		var late string
		for {
			var c struct {
				Execute string
				ID      int
			}
			if commands.Decode(&c) != nil {
				return
			}
			fmt.Fprintln(peer, `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`)
			switch c.Execute {
			case "qmp_capabilities":
				fmt.Fprintf(peer, `{"return": {}, "id": %d}`+"\n", c.ID)
			case "query":
				fmt.Fprintf(peer, `%s{"return": {"status": "fine"}, "id": %d}`+"\n", late, c.ID)
			case "refuse":
				fmt.Fprintf(peer, `{"id": %d, "error": {"class": "GenericError", "desc": "no such thing"}}`+"\n", c.ID)
			case "late":
				late = fmt.Sprintf(`{"return": {"status": "late"}, "id": %d}`, c.ID)
			case "quit":
				return
			}
		}
	}()
	ctx := t.Context()
	q, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var result struct{ Status string }
	query := func() {
		t.Helper()
		if err := q.Run(ctx, "query", map[string]int{"x": 1}, &result); err != nil || result.Status != "fine" {
			t.Errorf("query: %+v, %v", result, err)
		}
	}
	query()
	if err := q.Run(ctx, "refuse", nil, nil); err == nil || err.Error() != "qmp refuse: no such thing" {
		t.Errorf("refused command: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := q.Run(short, "late", nil, &result); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("command without an answer: %v", err)
	}
	query() // the late answer comes first, and must not be taken for this one's
	for range 2 {
		if err := q.Run(ctx, "quit", nil, nil); !errors.Is(err, ErrEnded) {
			t.Errorf("command on an ended connection: %v", err)
		}
	}
}
