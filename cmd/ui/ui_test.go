package ui

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/store/control"
)

const testToken = "a token that nobody knows"

// world is a store with three targets, two schedules, and its page.
type world struct {
	m      *arcstore.Manager
	server *httptest.Server
	first  *arcstore.Snapshot
	last   *arcstore.Snapshot
	memory string // a file
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	if err := arcstore.Init(store, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{m: m, memory: filepath.Join(dir, "memory")}
	memory := make([]byte, 4<<20)
	for i := range 600 {
		copy(memory[i*4096:], fmt.Sprintf("page %d of the machine", i))
	}
	for i := range 6 {
		copy(memory[i*40_960:], fmt.Sprintf("work %d", i))
		for _, target := range []string{"web-1", "team/db-1"}[:1+i%2] {
			if w.last, err = m.CreateVM(ctx, target, &arcstore.VM{Memory: capture.Bytes(memory)}, &arcstore.CreateOptions{Name: fmt.Sprintf("number %d", i)}); err != nil {
				t.Fatal(err)
			}
			if w.first == nil {
				w.first = w.last
			}
		}
	}
	if _, err := m.CreateVM(ctx, `<script>alert("x")</script>`[8:15], &arcstore.VM{Memory: capture.Bytes(memory[:1<<20])}, &arcstore.CreateOptions{Name: `<b onclick="x">bold</b>`}); err == nil {
		t.Fatal("a target with such a name")
	}
	if _, err := m.CreateVM(ctx, "lonely", &arcstore.VM{Memory: capture.Bytes(memory[:1<<20])}, &arcstore.CreateOptions{Name: `<b onclick="x">bold</b>`}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.memory, memory, 0o600); err != nil {
		t.Fatal(err)
	}
	var jobs control.Jobs
	runner := schedule.NewRunner(m, store, &schedule.Options{Jobs: &jobs})
	config, err := schedule.ParseConfig([]byte("schedules: [{name: nightly, gc: {}, cron: '@daily'}, {name: broken, snapshot: {files: {memory: /nowhere}}, cron: '@yearly', retry: {times: 0}}]"))
	if err != nil {
		t.Fatal(err)
	}
	runner.Apply(config)
	if _, err := runner.Run(ctx, "broken", nil); err != nil {
		t.Fatal(err)
	}
	u, err := New(Options{Store: m, Name: "the store of the test", Runner: runner, Jobs: &jobs, Token: testToken, Location: time.UTC})
	if err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(u)
	t.Cleanup(func() {
		w.server.Close()
		u.Close()
		runner.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// visitor is somebody with or without the token.
func (w *world) visitor(t *testing.T, token string) *http.Client {
	t.Helper()
	jar := &oneCookie{}
	c := &http.Client{Jar: jar}
	answer, err := c.Get(w.server.URL + "/?token=" + url.QueryEscape(token))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return c
}

type oneCookie struct{ c []*http.Cookie }

func (j *oneCookie) SetCookies(_ *url.URL, c []*http.Cookie) { j.c = c }
func (j *oneCookie) Cookies(*url.URL) []*http.Cookie         { return j.c }

func get(t *testing.T, c *http.Client, at string) (status int, text string) {
	t.Helper()
	answer, err := c.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(answer.Body)
	return answer.StatusCode, b.String()
}

func TestWayIn(t *testing.T) {
	w := newWorld(t)
	for token, want := range map[string]int{"": 401, "wrong": 401, testToken: 200} {
		if status, text := get(t, w.visitor(t, token), w.server.URL+"/"); status != want || (status != 200) == strings.Contains(text, "web-1") {
			t.Errorf("with the token %q: %d", token, status)
		}
	}
	friend := w.visitor(t, testToken)
	// Another site cannot act, even in the browser of a friend.
	form := url.Values{"snapshot": {w.first.ID}}
	r, _ := http.NewRequest("POST", w.server.URL+"/do/delete", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://elsewhere.example")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	answer, err := friend.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if _, err := w.m.Get(context.Background(), w.first.ID); err != nil || answer.StatusCode != http.StatusForbidden {
		t.Errorf("another site may act: %d, %v", answer.StatusCode, err)
	}
	// Asking is not doing.
	if status, _ := get(t, friend, w.server.URL+"/do/delete?snapshot="+w.first.ID); status != 200 {
		t.Errorf("%d", status)
	}
	if _, err := w.m.Get(context.Background(), w.first.ID); err != nil {
		t.Error(err)
	}
}

// TestPages: all pages that the overview leads to are there, and what is not says so.
func TestPages(t *testing.T) {
	w := newWorld(t)
	c := w.visitor(t, testToken)
	seen := map[string]bool{}
	queue := []string{"/"}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if seen[at] {
			continue
		}
		seen[at] = true
		status, text := get(t, c, w.server.URL+at)
		if status != 200 {
			t.Errorf("%s: %d", at, status)
		}
		if strings.Contains(text, `<b onclick`) {
			t.Errorf("%s shows a name as HTML", at)
		}
		for _, m := range regexp.MustCompile(`(?:href|src)="(/[^"]*)"`).FindAllStringSubmatch(text, -1) {
			queue = append(queue, strings.ReplaceAll(m[1], "&amp;", "&"))
		}
	}
	for _, want := range []string{"/target/team/db-1", "/snapshot/" + w.first.ID, "/do/delete?snapshot=" + w.last.ID, "/static/style.css"} {
		if !seen[want] {
			t.Errorf("nothing leads to %s", want)
		}
	}
	for at, want := range map[string]int{"/snapshot/nothing": 404, "/target/nothing": 404, "/do/nothing": 404, "/do/restore?snapshot=nothing": 404,
		"/snapshot/" + w.first.ID + "/picture.png?stream=nothing": 404, "/snapshot/" + w.first.ID + "?with=" + w.last.ID: 200} {
		if status, text := get(t, c, w.server.URL+at); status != want || want == 404 && !strings.Contains(text, "That is not possible") {
			t.Errorf("%s: %d", at, status)
		}
	}
}

func TestPicture(t *testing.T) {
	w := newWorld(t)
	c := w.visitor(t, testToken)
	answer, err := c.Get(w.server.URL + "/snapshot/" + w.last.ID + "/picture.png?stream=memory")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	img, err := png.Decode(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if img.Bounds().Dx() != 32 || img.Bounds().Dy() != 32 { // 1,024 pages
		t.Errorf("%v", img.Bounds())
	}
	colours := map[string]int{}
	for y := range 32 {
		for x := range 32 {
			r, g, b, a := img.At(x, y).RGBA()
			colours[fmt.Sprintf("%02x%02x%02x%02x", r>>8, g>>8, b>>8, a>>8)]++
		}
	}
	if colours["00000000"] != 1024-600 || len(colours) < 3 {
		t.Errorf("%v", colours)
	}
}

// browser starts a Chromium, or skips.
func browser(t *testing.T) (context.Context, *[]string) {
	t.Helper()
	var program string
	for _, name := range []string{os.Getenv("ARCSTORE_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if at, err := exec.LookPath(name); err == nil {
			program = at
			break
		}
	}
	if program == "" {
		if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "chromium") {
			t.Fatal("there is no Chromium")
		}
		t.Skip("there is no Chromium: apt-get install chromium, or set ARCSTORE_CHROMIUM")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WindowSize(1200, 1000), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	complaints := new([]string)
	if err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			*complaints = append(*complaints, fmt.Sprintf("%+v", ev.ExceptionDetails))
		case *log.EventEntryAdded:
			if e := ev.Entry; e.Level == log.EntryLevelError && !strings.Contains(e.Text, "422") && !strings.Contains(e.URL, "favicon") && !strings.Contains(e.Text, "401") {
				*complaints = append(*complaints, e.Text+" "+e.URL)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return ctx, complaints
}

// TestBrowser does in a real browser what there is to do, by mouse and by keyboard.
func TestBrowser(t *testing.T) {
	ctx, complaints := browser(t)
	w := newWorld(t)
	do := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	shot := func(name string) {
		t.Helper()
		dir := os.Getenv("ARCSTORE_TEST_SCREENSHOTS")
		if dir == "" {
			return
		}
		b, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text := func(selector string) string {
		t.Helper()
		return evaluate[string](ctx, t, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
	}
	see := func(selector, part string) {
		t.Helper()
		for range 100 {
			if strings.Contains(text(selector), part) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("%s is %q, and not %q", selector, text(selector), part)
	}

	do("log in", chromedp.Navigate(w.server.URL+"/"), chromedp.WaitVisible(`input[name=token]`), chromedp.SendKeys(`input[name=token]`, testToken+kb.Enter),
		chromedp.WaitVisible(`.tiles`))
	shot("overview")
	if n := len(regexp.MustCompile(`failed`).FindAllString(text("main"), -1)); n == 0 {
		t.Error("the schedule that fails is not seen")
	}
	// The keyboard: to the filter, and from dot to dot.
	do("filter", chromedp.KeyEvent("/"))
	if at := evaluate[string](ctx, t, `document.activeElement.id`); at != "filter" {
		t.Errorf("a slash leads to %q", at)
	}
	// The character comes along here, which it does not from a keyboard.
	evaluate[string](ctx, t, `document.querySelector("#filter").value = ""`)
	do("filter", chromedp.SendKeys(`#filter`, "team"))
	if shown := evaluate[int](ctx, t, `[...document.querySelectorAll(".target")].filter(t => t.offsetParent).length`); shown != 1 {
		t.Fatalf("%d targets are shown for %q", shown, evaluate[string](ctx, t, `document.querySelector("#filter").value`))
	}
	do("follow a dot", chromedp.SendKeys(`#filter`, kb.Tab+kb.Tab), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(`.facts`))

	// A snapshot, and its memory.
	do("snapshot", chromedp.Navigate(w.server.URL+"/snapshot/"+w.last.ID), chromedp.ScrollIntoView(`.pictures img`), chromedp.WaitVisible(`.pictures img`))
	width, err := chromedp.Run(ctx, chromedp.Poll[int](`document.querySelector(".pictures img").complete && document.querySelector(".pictures img").naturalWidth`))
	shot("snapshot")
	if err != nil || width != 32 {
		t.Errorf("the picture is %d wide", width)
	}
	do("compare", chromedp.SetValue(`select[name=with]`, w.first.ID), chromedp.Click(`.compare button`), chromedp.WaitVisible(`figure:nth-of-type(2) img`))
	shot("compare")

	// Take one.
	do("take", chromedp.Navigate(w.server.URL+"/do/snapshot"), chromedp.SetValue(`select[name=kind]`, "memory file"), chromedp.SendKeys(`input[name=target]`, "by-hand"),
		chromedp.SendKeys(`input[name=path]`, "relative"), chromedp.Submit(`form.confirm`), chromedp.WaitVisible(`.problem`))
	see(".problem", "not absolute")
	do("take", chromedp.SetValue(`input[name=path]`, w.memory), chromedp.Click(`form.confirm button`), chromedp.WaitVisible(`#jobs`))
	see("#jobs", "create by-hand")
	see("#jobs", "stored")
	taken, err := w.m.Get(context.Background(), "by-hand@latest")
	if err != nil {
		t.Fatal(err)
	}
	// Restore, verify and delete it.
	out := filepath.Join(t.TempDir(), "out")
	do("restore", chromedp.Navigate(w.server.URL+"/snapshot/"+taken.ID), chromedp.Click(`.acts a[href^="/do/restore"]`), chromedp.WaitVisible(`form.confirm`),
		chromedp.SendKeys(`input[name=output]`, out+kb.Enter), chromedp.WaitVisible(`.facts`), chromedp.Navigate(w.server.URL+"/"))
	see("#jobs", "restore "+taken.ID)
	see("#jobs", "in "+out)
	if b, err := os.ReadFile(filepath.Join(out, "memory")); err != nil || len(b) != 4<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	do("verify", chromedp.Navigate(w.server.URL+"/do/verify"), chromedp.Click(`form.confirm button`), chromedp.WaitVisible(`#jobs`))
	see("#jobs", "whole: ")
	do("delete", chromedp.Navigate(w.server.URL+"/snapshot/"+taken.ID), chromedp.Click(`a.danger`), chromedp.WaitVisible(`form.confirm`),
		chromedp.Click(`form.confirm a`), chromedp.WaitVisible(`.facts`), chromedp.Click(`a.danger`), chromedp.WaitVisible(`button.danger`), chromedp.Click(`button.danger`), chromedp.WaitVisible(`.tiles`))
	if _, err := w.m.Get(context.Background(), taken.ID); err == nil {
		t.Error("it is still there")
	}
	do("schedule", chromedp.Click(`a[aria-label="Pause nightly"]`), chromedp.Click(`form.confirm button`), chromedp.WaitVisible(`a[aria-label="Resume nightly"]`))

	// At night, and on a telephone, where nothing is wider than the screen.
	dark := chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
		return err
	})
	do("dark", dark, chromedp.Navigate(w.server.URL+"/"))
	shot("dark")
	if back := evaluate[string](ctx, t, `getComputedStyle(document.body).backgroundColor`); back != "rgb(20, 24, 28)" {
		t.Errorf("at night, the page is %s", back)
	}
	for _, at := range []string{"/", "/target/web-1", "/snapshot/" + w.last.ID, "/do/snapshot"} {
		do("telephone", chromedp.EmulateViewport(390, 844), chromedp.Navigate(w.server.URL+at))
		shot("telephone" + strings.ReplaceAll(at[:min(len(at), 9)], "/", "-"))
		wide, screen := evaluate[int](ctx, t, `document.documentElement.scrollWidth`), evaluate[int](ctx, t, `innerWidth`)
		if wide > screen {
			t.Errorf("%s is %d wide on a screen of %d", at, wide, screen)
		}
	}
	if len(*complaints) > 0 {
		t.Errorf("the browser complains: %q", *complaints)
	}
}

func evaluate[T any](ctx context.Context, t *testing.T, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}
