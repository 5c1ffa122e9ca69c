package remote

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// stallTimeout is how long a server may be silent in the middle of an answer.
const stallTimeout = time.Minute

// Requests counts requests.
type Requests struct {
	Sent, Retries      int64
	BytesUp, BytesDown int64
}

// wire is the way to a server: it counts, limits the rates, and sends nothing that comes too late.
type wire struct {
	next               http.RoundTripper
	up, down           *rate.Limiter // nil for no limit
	sent, retries      atomic.Int64
	bytesUp, bytesDown atomic.Int64
	answered           atomic.Bool // a server was there, at least once
}

func newWire(opts *S3Options) *wire {
	w := &wire{next: opts.transport, up: limiter(opts.UploadLimit), down: limiter(opts.DownloadLimit)}
	if w.next == nil {
		w.next = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			MaxIdleConnsPerHost:   2 * requests,
			IdleConnTimeout:       time.Minute,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
			DisableCompression:    true,
			WriteBufferSize:       256 << 10,
			ReadBufferSize:        256 << 10,
		}
	}
	return w
}

// limitStep is how many bytes are let through at once, at most.
const limitStep = 64 << 10

func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytes), limitStep)
}

func (w *wire) count() Requests {
	return Requests{Sent: w.sent.Load(), Retries: w.retries.Load(), BytesUp: w.bytesUp.Load(), BytesDown: w.bytesDown.Load()}
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := checkExpiry(r.Context(), time.Now()); err != nil {
		return nil, err
	}
	w.sent.Add(1)
	ctx, cancel := context.WithCancel(r.Context())
	sent := r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		sent.Body = &metered{ReadCloser: r.Body, ctx: ctx, limit: w.up, count: &w.bytesUp}
	}
	answer, err := w.next.RoundTrip(sent)
	if err != nil {
		cancel()
		return nil, err
	}
	w.answered.Store(true)
	stall := time.AfterFunc(stallTimeout, cancel)
	answer.Body = &metered{ReadCloser: answer.Body, ctx: ctx, limit: w.down, count: &w.bytesDown, stall: stall, done: cancel}
	return answer, nil
}

// metered is a body that is counted and held to a rate.
type metered struct {
	io.ReadCloser
	ctx   context.Context
	limit *rate.Limiter
	count *atomic.Int64
	stall *time.Timer // nil for none
	done  func()
}

func (m *metered) Read(p []byte) (int, error) {
	if m.limit != nil && len(p) > limitStep {
		p = p[:limitStep]
	}
	n, err := m.ReadCloser.Read(p)
	m.count.Add(int64(n))
	if m.stall != nil {
		m.stall.Reset(stallTimeout)
	}
	if m.limit != nil && n > 0 {
		if werr := m.limit.WaitN(m.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

func (m *metered) Close() error {
	err := m.ReadCloser.Close()
	if m.stall != nil {
		m.stall.Stop()
		m.done()
	}
	return err
}
