package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// stallTimeout is how long a server may be silent in the middle of an answer, or deaf in the middle of a request.
const stallTimeout = time.Minute

// errStalled is the error of a connection on which nothing moves.
var errStalled = errors.New("nothing moves on the connection")

// Requests counts requests.
type Requests struct {
	Sent, Retries      int64
	BytesUp, BytesDown int64
}

// wire is the way to a server: it counts, limits the rates, and sends nothing that comes too late.
type wire struct {
	next               http.RoundTripper
	up, down           *limit // nil for none
	sent, retries      atomic.Int64
	bytesUp, bytesDown atomic.Int64
	answered           atomic.Bool // a server was there, at least once
	stall              time.Duration
}

func newWire(opts *S3Options) *wire {
	w := &wire{next: opts.transport, up: newLimit(opts.UploadLimit), down: newLimit(opts.DownloadLimit), stall: stallTimeout}
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

// maxStep is how many bytes a limit lets through at once, at most.
const maxStep = 64 << 10

// limit is a rate in bytes a second.
type limit struct {
	*rate.Limiter
	step int // that pass at once, bytes
}

// newLimit returns a limit; nil for none. What was not used in a tenth of a second may be used later. The steps are so small
// that no connection is still for long, even if many share a low limit: servers give up on those.
func newLimit(bytes int64) *limit {
	if bytes <= 0 {
		return nil
	}
	step := min(max(bytes/16, 1<<10), maxStep)
	return &limit{rate.NewLimiter(rate.Limit(bytes), int(max(step, bytes/10))), int(step)}
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
	ctx, cancel := context.WithCancelCause(r.Context())
	sent := r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		sent.Body = w.meter(ctx, r.Body, w.up, &w.bytesUp, cancel)
	}
	answer, err := w.next.RoundTrip(sent)
	if err != nil {
		if context.Cause(ctx) == errStalled {
			err = errStalled
		}
		cancel(nil)
		return nil, err
	}
	w.answered.Store(true)
	body := w.meter(ctx, answer.Body, w.down, &w.bytesDown, cancel)
	body.last = true
	answer.Body = body
	return answer, nil
}

// metered is a body that is counted, held to a rate, and watched.
type metered struct {
	io.ReadCloser
	ctx    context.Context
	limit  *limit
	count  *atomic.Int64
	stall  *time.Timer
	after  time.Duration
	cancel context.CancelCauseFunc
	last   bool // with it the request ends
}

func (w *wire) meter(ctx context.Context, body io.ReadCloser, limit *limit, count *atomic.Int64, cancel context.CancelCauseFunc) *metered {
	return &metered{ReadCloser: body, ctx: ctx, limit: limit, count: count, cancel: cancel, after: w.stall,
		stall: time.AfterFunc(w.stall, func() { cancel(errStalled) })}
}

func (m *metered) Read(p []byte) (int, error) {
	if m.limit != nil && len(p) > m.limit.step {
		p = p[:m.limit.step]
	}
	n, err := m.ReadCloser.Read(p)
	m.count.Add(int64(n))
	m.stall.Stop()
	if m.limit != nil && n > 0 {
		if werr := m.limit.WaitN(m.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	switch {
	case err == nil:
		m.stall.Reset(m.after)
	case context.Cause(m.ctx) == errStalled:
		err = errStalled
	}
	return n, err
}

func (m *metered) Close() error {
	err := m.ReadCloser.Close()
	m.stall.Stop()
	if m.last {
		m.cancel(nil)
	}
	return err
}
