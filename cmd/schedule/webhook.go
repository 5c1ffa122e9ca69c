package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	webhookTimeout = 10 * time.Second
	webhookTries   = 3
)

// Message is what a webhook is told.
type Message struct {
	Event     string `json:"event"` // failed, recovered or done
	Host      string `json:"host"`
	Schedule  string `json:"schedule"`
	Operation string `json:"operation"`
	Subject   string `json:"subject,omitempty"`
	Failures  int    `json:"failures"` // in a row, before this one
	Run       Run    `json:"run"`
}

// tell tells who observes, and the webhook if it wants to know. before is how many runs had failed in a row.
func (r *Runner) tell(s *Schedule, run Run, before int) {
	if r.observe != nil {
		r.observe(s, run)
	}
	r.mu.Lock()
	hook := r.webhook
	r.mu.Unlock()
	if hook == nil {
		return
	}
	msg := Message{Schedule: s.Name, Operation: s.operation(), Subject: s.subject(), Failures: before, Run: run}
	switch {
	case run.Result == Failed:
		msg.Event = "failed"
	case run.Result == Done && before > 0:
		msg.Event = "recovered"
	case run.Result == Done && hook.Successes:
		msg.Event = "done"
	default:
		return
	}
	msg.Host, _ = os.Hostname() // "" where it has none
	r.tellers.Add(1)
	go func() {
		defer r.tellers.Done()
		if err := hook.send(&msg); err != nil {
			r.log.Error("the webhook was not told", "schedule", s.Name, "error", err)
		}
	}()
}

// send posts a message; it tries again where that may help.
func (h *Webhook) send(msg *Message) error {
	body, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	_, err = backoff.Retry(context.Background(), func() (struct{}, error) { return struct{}{}, h.post(body) }, backoff.WithMaxTries(webhookTries))
	return err
}

func (h *Webhook) post(body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range h.Header {
		req.Header.Set(k, v)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16))
	switch {
	case answer.StatusCode < 300:
		return nil
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("it answers with %s", answer.Status)
	}
	return backoff.Permanent(fmt.Errorf("it answers with %s", answer.Status))
}
