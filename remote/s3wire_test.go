package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// oddServer is a bucket on a server that is no real one: it answers as it is told.
func oddServer(t *testing.T, answer http.HandlerFunc) *S3 {
	t.Setenv("AWS_ACCESS_KEY_ID", "access")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	b, err := OpenS3(Location{Bucket: "bucket"}, &S3Options{Endpoint: server.URL, Region: "us-east-1", Credentials: "env", Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStalled: a connection on which nothing moves is given up, and the request sent again.
func TestStalled(t *testing.T) {
	var tries atomic.Int64
	over := make(chan struct{})
	b := oddServer(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1)%2 == 0 {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
			if r.Method == http.MethodGet {
				fmt.Fprint(w, "0123456789")
			}
			return
		}
		if r.Method == http.MethodGet {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "01234")
			http.NewResponseController(w).Flush()
		}
		<-over
	})
	t.Cleanup(func() { close(over) })
	b.wire.stall = 50 * time.Millisecond
	if got, err := b.Read(context.Background(), "key", 10); err != nil || string(got) != "0123456789" {
		t.Errorf("read: %q, %v", got, err)
	}
	if err := b.Put(context.Background(), "key", bytes.NewReader(make([]byte, 32<<20)), 32<<20); err != nil {
		t.Errorf("put: %v", err)
	}
	if n := tries.Load(); n != 4 {
		t.Errorf("%d tries", n)
	}
}

// TestBrokenAnswers: answers that break off are no short objects, however often they do.
func TestBrokenAnswers(t *testing.T) {
	b := oddServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>`)
	})
	b.patience = 200 * time.Millisecond
	ctx := context.Background()
	_, read := b.Read(ctx, "key", 1000)
	readAt := b.ReadAt(ctx, "key", make([]byte, 1000), 0)
	list := b.List(ctx, "", func(Object) error { return nil })
	for what, err := range map[string]error{"read": read, "read a part": readAt, "list": list} {
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b.Requests().Retries < 3 {
		t.Errorf("%d retries", b.Requests().Retries)
	}
}

// TestErrors: what does not pass is told at once, in words, and what may pass is tried again.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		status  int
		code    string
		kind    error
		retried bool
	}{
		{http.StatusForbidden, "AccessDenied", ErrDenied, false},
		{http.StatusForbidden, "SignatureDoesNotMatch", ErrDenied, false},
		{http.StatusForbidden, "RequestTimeTooSkewed", ErrDenied, false},
		{http.StatusBadRequest, "ExpiredToken", ErrDenied, false},
		{http.StatusNotFound, "NoSuchBucket", ErrNoBucket, false},
		{http.StatusInsufficientStorage, "XMinioStorageFull", ErrFull, false},
		{http.StatusBadRequest, "QuotaExceeded", ErrFull, false},
		{http.StatusNotImplemented, "NotImplemented", errors.ErrUnsupported, false},
		{http.StatusServiceUnavailable, "SlowDown", nil, true},
		{http.StatusInternalServerError, "InternalError", nil, true},
		{http.StatusBadRequest, "RequestTimeout", nil, true},
		{http.StatusTooManyRequests, "TooManyRequests", nil, true},
	} {
		b := oddServer(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(test.status)
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>why</Message></Error>`, test.code)
		})
		b.patience = 500 * time.Millisecond
		err := b.Put(context.Background(), "key", bytes.NewReader([]byte("text")), 4)
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) {
			t.Errorf("%s: %v", test.code, err)
		}
		if retried := b.Requests().Retries > 0; retried != test.retried {
			t.Errorf("%s: %d retries: %v", test.code, b.Requests().Retries, err)
		}
	}
}
