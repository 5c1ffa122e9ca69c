// Package ui is a page to look at: what is in a store, how it came to be, what runs, and what can be done to it. arcstore serve --ui offers it.
//
// It is HTML that the server renders, with a little script that it does without. Start with [New].
package ui

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/store/control"
)

//go:embed static
var static embed.FS

//go:embed templates
var templates embed.FS

// Options are what the page shows and does.
type Options struct {
	Store    *arcstore.Manager
	Name     string // of the store
	Runner   *schedule.Runner
	Jobs     *control.Jobs
	Token    string // who knows it may look, and do
	Log      *slog.Logger
	Location *time.Location // of times that are shown; nil is the machine's
}

// UI is the page. Close must be called.
type UI struct {
	opts    Options
	pages   map[string]*template.Template
	mux     *http.ServeMux
	working context.Context
	stop    context.CancelCauseFunc
	group   sync.WaitGroup

	mu      sync.Mutex
	results []result // what was asked for here and ended, the newest first
}

// result is an operation that was asked for here, and how it went.
type result struct {
	At   time.Time
	What string
	Err  string
	Said string
}

// maxResults is how many are shown.
const maxResults = 20

// New returns the page.
func New(opts Options) (*UI, error) {
	if opts.Location == nil {
		opts.Location = time.Local
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	u := &UI{opts: opts, pages: make(map[string]*template.Template), mux: http.NewServeMux()}
	u.working, u.stop = context.WithCancelCause(context.Background())
	for _, name := range []string{"overview", "target", "snapshot", "confirm", "login", "error"} {
		t, err := template.New("frame.html").Funcs(u.functions()).ParseFS(templates, "templates/frame.html", "templates/parts.html", "templates/"+name+".html")
		if err != nil {
			return nil, err
		}
		u.pages[name] = t
	}
	u.mux.HandleFunc("GET /{$}", u.overview)
	u.mux.HandleFunc("GET /jobs", u.jobs)
	u.mux.HandleFunc("GET /target/{target...}", u.target)
	u.mux.HandleFunc("GET /snapshot/{id}", u.snapshot)
	u.mux.HandleFunc("GET /snapshot/{id}/picture.png", u.picture)
	u.mux.HandleFunc("GET /do/{action}", u.confirm)
	u.mux.HandleFunc("POST /do/{action}", u.do)
	return u, nil
}

// Close abandons what was asked for here and returns when it has ended.
func (u *UI) Close() {
	u.stop(arcstore.ErrStopping)
	u.group.Wait()
}

const cookieName = "arcstore"

// ServeHTTP implements http.Handler.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	if strings.HasPrefix(r.URL.Path, "/static/") {
		h.Set("Cache-Control", "max-age=3600")
		http.FileServerFS(static).ServeHTTP(w, r)
		return
	}
	h.Set("Cache-Control", "no-store")
	if given := r.FormValue("token"); given != "" && (r.Method == http.MethodPost && r.URL.Path == "/login" || r.Method == http.MethodGet) {
		u.login(w, r, given)
		return
	}
	if c, err := r.Cookie(cookieName); err != nil || !hmac.Equal([]byte(c.Value), []byte(u.cookie())) {
		w.WriteHeader(http.StatusUnauthorized)
		u.render(w, r, "login", nil)
		return
	}
	// Other sites may lead here, and may not act here.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		u.fail(w, r, http.StatusForbidden, err)
		return
	}
	u.mux.ServeHTTP(w, r)
}

// cookie is what a browser keeps: the token cannot be found from it.
func (u *UI) cookie() string {
	sum := hmac.New(sha256.New, []byte(u.opts.Token))
	sum.Write([]byte("arcstore ui cookie"))
	return hex.EncodeToString(sum.Sum(nil))
}

func (u *UI) login(w http.ResponseWriter, r *http.Request, given string) {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(u.opts.Token))
	if !hmac.Equal(a[:], b[:]) {
		w.WriteHeader(http.StatusUnauthorized)
		u.render(w, r, "login", "This is not the token.")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: u.cookie(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil})
	// A page of our own that leads on, since a cookie of the strict kind is not sent along a way that begins elsewhere.
	w.Header().Set("Refresh", "0; url=/")
	u.render(w, r, "login", "Welcome.")
}

// frame is what every page has.
type frame struct {
	Name string
	Path string
	Body any
}

func (u *UI) render(w http.ResponseWriter, r *http.Request, page string, body any) {
	var b bytes.Buffer
	if err := u.pages[page].Execute(&b, frame{Name: u.opts.Name, Path: r.URL.Path, Body: body}); err != nil {
		u.opts.Log.Error("page", "page", page, "error", err)
		http.Error(w, "this page cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	b.WriteTo(w)
}

// fail shows an error.
func (u *UI) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	switch {
	case errors.Is(err, arcstore.ErrNotFound), errors.Is(err, arcstore.ErrNoStream), errors.Is(err, arcstore.ErrNoSchedule):
		status = http.StatusNotFound
	case errors.Is(err, arcstore.ErrInvalid), errors.Is(err, arcstore.ErrAmbiguous):
		status = http.StatusBadRequest
	}
	w.WriteHeader(status)
	u.render(w, r, "error", plain(err))
}

// plain is an error's text for people, without the names of packages.
func plain(err error) string {
	text := err.Error()
	for _, name := range []string{"arcstore: ", "store: ", "manifest: ", "capture: ", "restore: ", "remote: "} {
		text = strings.ReplaceAll(text, name, "")
	}
	return text
}
