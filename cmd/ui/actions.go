package ui

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/store/control"
)

// action is something that can be done, once somebody has confirmed it.
type action struct {
	title   string
	says    string // what will happen
	button  string
	danger  bool
	subject string // name of the field that says of what; "" for the whole store
	fields  []field
	// begin checks what was filled in, and returns what is to be done, and where to go then.
	begin func(u *UI, r *http.Request) (job, error)
}

// job is what an action does, beside the page.
type job struct {
	operation, subject string
	run                func(ctx context.Context, events *arcstore.Events) (said string, err error)
	next               string // page
}

// field is something to fill in.
type field struct {
	Name, Label, Hint string
	Options           []string // to choose from; nil for text
	Value             string
	Required          bool
}

var actions = map[string]action{
	"snapshot": {title: "Take a snapshot", button: "Take it", says: "The guest is paused while its memory is read, and goes on whatever happens. A container's processes go on, too.",
		fields: []field{
			{Name: "target", Label: "Target", Hint: "the name of the machine or container", Required: true},
			{Name: "kind", Label: "Kind", Options: []string{"QEMU guest", "memory file", "container of runc's"}},
			{Name: "path", Label: "Socket, file or ID", Hint: "QMP socket, file with the memory, or the container's ID", Required: true},
			{Name: "name", Label: "Name", Hint: "for people; may be empty"},
		}, begin: (*UI).beginSnapshot},
	"restore": {title: "Restore", button: "Restore it", says: "Each stream becomes a file in the directory, on the machine that holds the store. Files that are there stay.", subject: "snapshot",
		fields: []field{{Name: "output", Label: "Directory", Hint: "absolute path", Required: true}}, begin: (*UI).beginRestore},
	"delete": {title: "Delete", button: "Delete it", danger: true, says: "It cannot be had back. Snapshots that descend from it stay whole. The space comes back with the next collection.",
		subject: "snapshot", begin: (*UI).beginDelete},
	"verify": {title: "Verify", button: "Verify", says: "Every byte is read and compared with its hash. It may take a while, and nothing waits for it.", subject: "snapshot", begin: (*UI).beginVerify},
	"gc": {title: "Collect garbage", button: "Collect", says: "What no snapshot needs is deleted, and what lies scattered is laid together. All else goes on meanwhile.",
		begin: func(u *UI, _ *http.Request) (job, error) {
			return job{operation: "gc", next: "/", run: func(ctx context.Context, events *arcstore.Events) (string, error) {
				report, err := u.opts.Store.GC(ctx, &arcstore.GCOptions{Progress: events.Report})
				if err != nil {
					return "", err
				}
				return "freed " + humanize.IBytes(uint64(max(0, report.BytesFreed))), nil
			}}, nil
		}},
	"run": {title: "Run a schedule now", button: "Run it", says: "What it does at its time is done now.", subject: "schedule", begin: (*UI).beginRun},
	"pause": {title: "Pause a schedule", button: "Pause it", says: "It does not run by itself until it is resumed. What runs goes on.", subject: "schedule",
		begin: func(u *UI, r *http.Request) (job, error) {
			return job{next: "/"}, u.opts.Runner.Pause(r.FormValue("schedule"))
		}},
	"resume": {title: "Resume a schedule", button: "Resume it", says: "It runs by itself again. What was missed is not caught up with.", subject: "schedule",
		begin: func(u *UI, r *http.Request) (job, error) {
			return job{next: "/"}, u.opts.Runner.Resume(r.FormValue("schedule"))
		}},
	"cancel": {title: "Cancel an operation", button: "Cancel it", danger: true, says: "What it has not completed was never there.", subject: "job",
		begin: func(u *UI, r *http.Request) (job, error) {
			return job{next: "/"}, u.opts.Jobs.Cancel(r.FormValue("job"))
		}},
}

type confirmPage struct {
	Action, Title, Says, Button string
	Danger                      bool
	SubjectName, Subject, About string
	Fields                      []field
	Back                        string
	Error                       string
}

// confirm asks before anything is done.
func (u *UI) confirm(w http.ResponseWriter, r *http.Request) {
	u.ask(w, r, nil)
}

// ask shows what an action will do, and what was wrong with the last try.
func (u *UI) ask(w http.ResponseWriter, r *http.Request, problem error) {
	name := r.PathValue("action")
	a, ok := actions[name]
	if !ok {
		u.fail(w, r, http.StatusNotFound, fmt.Errorf("nothing here is called %q", name))
		return
	}
	page := confirmPage{Action: name, Title: a.title, Says: a.says, Button: a.button, Danger: a.danger, SubjectName: a.subject, Back: "/"}
	if a.subject != "" {
		page.Subject = r.FormValue(a.subject)
		page.About = page.Subject
	}
	if a.subject == "snapshot" && page.Subject != "" {
		e, err := u.opts.Store.Get(r.Context(), page.Subject)
		if err != nil {
			u.fail(w, r, http.StatusInternalServerError, err)
			return
		}
		page.Subject, page.Back = e.ID, "/snapshot/"+e.ID
		page.About = fmt.Sprintf("%s, of %s, taken %s", e.ID[:min(8, len(e.ID))], e.TargetID, u.moment(e.Created))
	}
	for _, f := range a.fields {
		f.Value = r.FormValue(f.Name)
		page.Fields = append(page.Fields, f)
	}
	if problem != nil {
		page.Error = plain(problem)
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	u.render(w, r, "confirm", page)
}

// do does what was confirmed: what takes its time, beside the page.
func (u *UI) do(w http.ResponseWriter, r *http.Request) {
	a, ok := actions[r.PathValue("action")]
	if !ok {
		u.fail(w, r, http.StatusNotFound, fmt.Errorf("nothing here is called %q", r.PathValue("action")))
		return
	}
	for _, f := range a.fields {
		if f.Required && strings.TrimSpace(r.FormValue(f.Name)) == "" {
			u.ask(w, r, fmt.Errorf("%s is empty", f.Label))
			return
		}
	}
	j, err := a.begin(u, r)
	if err != nil {
		u.ask(w, r, err)
		return
	}
	if j.run != nil {
		u.start(j)
	}
	http.Redirect(w, r, j.next, http.StatusSeeOther)
}

// start runs a job to its end, whatever becomes of the page.
func (u *UI) start(j job) {
	u.group.Add(1)
	go func() {
		defer u.group.Done()
		var said string
		err := u.opts.Jobs.Run(u.working, control.Job{Operation: j.operation, Subject: j.subject}, nil, func(ctx context.Context, events *arcstore.Events) (err error) {
			said, err = j.run(ctx, events)
			return err
		})
		r := result{At: time.Now(), What: strings.TrimSpace(j.operation + " " + j.subject), Said: said}
		if err != nil {
			r.Err = plain(err)
			u.opts.Log.Error("asked for by the page", "operation", j.operation, "subject", j.subject, "error", err)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.results = append([]result{r}, u.results[:min(len(u.results), maxResults-1)]...)
	}()
}

func (u *UI) beginSnapshot(r *http.Request) (job, error) {
	path := strings.TrimSpace(r.FormValue("path"))
	req := &arcstore.CreateRequest{Target: strings.TrimSpace(r.FormValue("target")), Name: strings.TrimSpace(r.FormValue("name"))}
	switch r.FormValue("kind") {
	case "QEMU guest":
		req.QEMU = &arcstore.QEMU{Socket: path, PreCopy: true}
	case "memory file":
		req.Files = &arcstore.Files{Memory: path}
	case "container of runc's":
		req.Container = &arcstore.Container{Runc: path, LeaveRunning: true}
	default:
		return job{}, errors.New("choose a kind")
	}
	if err := req.Check(); err != nil {
		return job{}, err
	}
	return job{operation: "create", subject: req.Target, next: "/", run: func(ctx context.Context, events *arcstore.Events) (string, error) {
		s, err := u.opts.Store.Create(ctx, req, events)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s, %s stored", s.ID[:8], humanize.IBytes(uint64(s.Cost.BytesStored))), nil
	}}, nil
}

func (u *UI) beginRestore(r *http.Request) (job, error) {
	id, output := r.FormValue("snapshot"), strings.TrimSpace(r.FormValue("output"))
	if !filepath.IsAbs(output) {
		return job{}, fmt.Errorf("%q is no absolute path", output)
	}
	return job{operation: "restore", subject: id, next: "/snapshot/" + url.PathEscape(id), run: func(ctx context.Context, events *arcstore.Events) (string, error) {
		report, err := u.opts.Store.Restore(ctx, id, output, &arcstore.RestoreOptions{Progress: events.Report})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s in %s", humanize.IBytes(uint64(report.Bytes)), output), nil
	}}, nil
}

func (u *UI) beginDelete(r *http.Request) (job, error) {
	deleted, err := u.opts.Store.Delete(r.Context(), r.FormValue("snapshot"))
	if err != nil {
		return job{}, err
	}
	next := "/"
	if rest, err := u.opts.Store.List(r.Context(), deleted[0].TargetID); err == nil && len(rest) > 0 {
		next = (&url.URL{Path: "/target/" + deleted[0].TargetID}).EscapedPath()
	}
	return job{next: next}, nil
}

func (u *UI) beginVerify(r *http.Request) (job, error) {
	var ids []string
	next := "/"
	if id := r.FormValue("snapshot"); id != "" {
		ids, next = []string{id}, "/snapshot/"+url.PathEscape(id)
	}
	return job{operation: "verify", subject: strings.Join(ids, ""), next: next, run: func(ctx context.Context, events *arcstore.Events) (string, error) {
		report, err := u.opts.Store.Verify(ctx, &arcstore.VerifyOptions{Snapshots: ids, Data: true, Progress: events.Report})
		if err != nil {
			return "", err
		}
		if n := len(report.Damage); n > 0 {
			return "", fmt.Errorf("%d things are wrong, the first: %s: %s", n, report.Damage[0].What, report.Damage[0].Why)
		}
		return "whole: " + humanize.IBytes(uint64(report.BytesRead)) + " read", nil
	}}, nil
}

func (u *UI) beginRun(r *http.Request) (job, error) {
	name := r.FormValue("schedule")
	if _, err := u.opts.Runner.History(name); err != nil {
		return job{}, err
	}
	u.group.Add(1)
	go func() { // the runner has a job of its own
		defer u.group.Done()
		_, _ = u.opts.Runner.Run(u.working, name, nil) // how it went is in its history
	}()
	return job{next: "/"}, nil
}
