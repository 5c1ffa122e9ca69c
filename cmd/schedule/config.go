package schedule

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"

	"github.com/arcboxlabs/arcstore"
)

// Example is a configuration that says what there is to say, with comments.
//
//go:embed example.yaml
var Example string

// ErrConfig is wrapped by the errors of a configuration that cannot be.
var ErrConfig = errors.New("the configuration cannot be used")

// maxConfig is how long a configuration may be, in bytes.
const maxConfig = 4 << 20

// Defaults of what a configuration leaves out.
const (
	DefaultGrace      = 30 * time.Second
	DefaultRetries    = 3
	DefaultRetryWait  = 10 * time.Second
	DefaultVerifyPart = 100 // percent
)

// Config says what is to be done, and when. Its YAML form is described by Example.
type Config struct {
	// TimeZone is that of cron expressions, windows and retention, such as Europe/Berlin; "" is the machine's.
	TimeZone string `yaml:"time_zone"`
	// Grace is how long what runs may go on when the process is told to end, before it is abandoned.
	Grace *Duration `yaml:"grace"`
	// Webhook is told of failures, and of what works again.
	Webhook   *Webhook    `yaml:"webhook"`
	Schedules []*Schedule `yaml:"schedules"`
}

// Webhook is where to send what happened, as JSON by POST.
type Webhook struct {
	URL string `yaml:"url"`
	// Header has further headers, such as Authorization.
	Header map[string]string `yaml:"header"`
	// Successes are told, too.
	Successes bool `yaml:"successes"`
}

// Schedule is one thing that is done again and again: exactly one of Snapshot, GC, Verify and RemoteGC.
type Schedule struct {
	Name string `yaml:"name" json:"name"` // unique; the letters of target names

	Snapshot *arcstore.CreateRequest `yaml:"snapshot" json:"snapshot,omitempty"`
	GC       *struct{}               `yaml:"gc" json:"gc,omitempty"`
	Verify   *Verify                 `yaml:"verify" json:"verify,omitempty"`
	RemoteGC *RemoteGC               `yaml:"remote_gc" json:"remote_gc,omitempty"`

	// Cron or Every says when.
	Cron     string   `yaml:"cron" json:"cron,omitempty"`   // five fields, or @hourly, @daily and the like
	Every    Duration `yaml:"every" json:"every,omitempty"` // since the beginning of the last time
	TimeZone string   `yaml:"time_zone" json:"time_zone,omitempty"`
	// Jitter delays each time by a random part of it, so that many hosts do not begin at once.
	Jitter Duration `yaml:"jitter" json:"jitter,omitempty"`
	// Window is when it may run, "01:00-05:00"; what still runs when it closes is abandoned. "" is always.
	Window string `yaml:"window" json:"window,omitempty"`
	// Timeout is how long a try may take; 0 is for ever.
	Timeout Duration `yaml:"timeout" json:"timeout,omitempty"`
	// Retry is how often, and after how long, what failed is tried again.
	Retry Retry `yaml:"retry" json:"retry,omitzero"`

	// Keep is what of the target's snapshots stays in the store; nil is all.
	Keep *Keep `yaml:"keep" json:"keep,omitempty"`
	// Push is where new snapshots go.
	Push *Push `yaml:"push" json:"push,omitempty"`

	clock  timetable
	window window
	zone   *time.Location
}

// Verify says how a verification is done.
type Verify struct {
	Data    bool     `yaml:"data" json:"data,omitempty"` // read the data, too
	Percent *float64 `yaml:"percent" json:"percent,omitempty"`
	// RepairFrom is the remote that damage is mended from; "" is none.
	RepairFrom string `yaml:"repair_from" json:"repair_from,omitempty"`
}

// RemoteGC says which bucket is collected.
type RemoteGC struct {
	Remote string `yaml:"remote" json:"remote"`
}

// Push says where new snapshots go.
type Push struct {
	Remote string `yaml:"remote" json:"remote"`
	Limit  Size   `yaml:"limit" json:"limit,omitempty"` // bytes a second
	Keep   *Keep  `yaml:"keep" json:"keep,omitempty"`   // what of the target's snapshots stays there; nil is all
}

// Keep is a retention.
type Keep struct {
	Last    int      `yaml:"last" json:"last,omitempty"`
	Hourly  int      `yaml:"hourly" json:"hourly,omitempty"`
	Daily   int      `yaml:"daily" json:"daily,omitempty"`
	Weekly  int      `yaml:"weekly" json:"weekly,omitempty"`
	Monthly int      `yaml:"monthly" json:"monthly,omitempty"`
	Yearly  int      `yaml:"yearly" json:"yearly,omitempty"`
	Labels  []string `yaml:"labels" json:"labels,omitempty"`
}

// Retry says how often, and after how long, what failed is tried again.
type Retry struct {
	Times *int     `yaml:"times" json:"times,omitempty"`
	Wait  Duration `yaml:"wait" json:"wait,omitempty"` // before the first one; it grows then
}

func (r Retry) times() int {
	if r.Times == nil {
		return DefaultRetries
	}
	return *r.Times
}

func (r Retry) wait() time.Duration {
	if r.Wait == 0 {
		return DefaultRetryWait
	}
	return time.Duration(r.Wait)
}

func (k *Keep) retention(zone *time.Location) arcstore.Retention {
	return arcstore.Retention{KeepLast: k.Last, KeepHourly: k.Hourly, KeepDaily: k.Daily, KeepWeekly: k.Weekly, KeepMonthly: k.Monthly,
		KeepYearly: k.Yearly, KeepLabels: k.Labels, Location: zone}
}

// Duration is a length of time, as "90s", "15m" or "6h".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is no length of time, such as 90s, 15m or 6h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.short()), nil }

// short leaves out units that are 0.
func (d Duration) short() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Size is a number of bytes, as "512KiB" or "10MiB".
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := humanize.ParseBytes(string(text))
	if err != nil || v == 0 || v > 1<<60 {
		return fmt.Errorf("%q is no number of bytes, such as 512KiB or 10MiB", text)
	}
	*s = Size(v)
	return nil
}

// ReadConfig reads a configuration from a file, and checks all of it that can be without doing it.
func ReadConfig(name string) (*Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// ParseConfig is ReadConfig of what is in a file.
func ParseConfig(text []byte) (*Config, error) {
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrConfig, maxConfig)
	}
	c := new(Config)
	d := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s", ErrConfig, strings.TrimSpace(firstLine(yaml.FormatError(err, false, false))))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it has more than one document", ErrConfig)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

var scheduleName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

// check checks what can be, and prepares the rest.
func (c *Config) check() error {
	zone, err := loadZone(c.TimeZone, time.Local)
	if err != nil {
		return err
	}
	if w := c.Webhook; w != nil {
		if u, err := url.Parse(w.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("webhook: %q is no http or https URL", w.URL)
		}
	}
	seen := make(map[string]bool)
	for i, s := range c.Schedules {
		switch {
		case s == nil || s.Name == "":
			return fmt.Errorf("the schedule %d has no name", i+1)
		case !scheduleName.MatchString(s.Name):
			return fmt.Errorf("a schedule cannot be called %q: letters, digits, . _ and - make a name", s.Name)
		case seen[s.Name]:
			return fmt.Errorf("two schedules are called %s", s.Name)
		}
		seen[s.Name] = true
		if err := s.check(zone); err != nil {
			return fmt.Errorf("schedule %s: %w", s.Name, err)
		}
	}
	return nil
}

func loadZone(name string, otherwise *time.Location) (*time.Location, error) {
	if name == "" {
		return otherwise, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("there is no time zone %q", name)
	}
	return zone, nil
}

func (s *Schedule) check(zone *time.Location) (err error) {
	said := 0
	for _, is := range []bool{s.Snapshot != nil, s.GC != nil, s.Verify != nil, s.RemoteGC != nil} {
		if is {
			said++
		}
	}
	if said != 1 {
		return errors.New("give one of snapshot, gc, verify and remote_gc; one without settings is written {}")
	}
	if s.zone, err = loadZone(s.TimeZone, zone); err != nil {
		return err
	}
	if s.clock, err = newTimetable(s); err != nil {
		return err
	}
	if s.window, err = parseWindow(s.Window); err != nil {
		return err
	}
	if n := s.Retry.times(); n < 0 || n > 100 {
		return fmt.Errorf("retry: times is %d: it is 0 to 100", n)
	}
	if v := s.Verify; v != nil && v.Percent != nil && (!v.Data || !(*v.Percent > 0 && *v.Percent <= 100)) {
		return errors.New("verify: percent is more than 0 and at most 100, and goes with data: true")
	}
	if s.RemoteGC != nil && s.RemoteGC.Remote == "" {
		return errors.New("remote_gc: remote names a remote of the store")
	}
	if s.Snapshot == nil {
		if s.Keep != nil || s.Push != nil {
			return errors.New("keep and push go with snapshot")
		}
		return nil
	}
	if s.Snapshot.Target == "" {
		s.Snapshot.Target = s.Name
	}
	if err := s.Snapshot.Check(); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if s.Keep != nil {
		if err := s.Keep.retention(s.zone).Validate(); err != nil {
			return fmt.Errorf("keep: %w", err)
		}
	}
	if p := s.Push; p != nil {
		if p.Remote == "" {
			return errors.New("push: remote names a remote of the store")
		}
		if p.Keep != nil {
			if err := p.Keep.retention(s.zone).Validate(); err != nil {
				return fmt.Errorf("push: keep: %w", err)
			}
		}
	}
	return nil
}

// operation is what the schedule does, in a word.
func (s *Schedule) operation() string {
	switch {
	case s.Snapshot != nil:
		return "snapshot"
	case s.GC != nil:
		return "gc"
	case s.RemoteGC != nil:
		return "remote gc"
	}
	return "verify"
}

// subject is what the schedule is about.
func (s *Schedule) subject() string {
	switch {
	case s.Snapshot != nil:
		return s.Snapshot.Target
	case s.RemoteGC != nil:
		return s.RemoteGC.Remote
	}
	return ""
}

// grace is how long what runs may go on when the process is told to end.
func (c *Config) grace() time.Duration {
	if c.Grace == nil {
		return DefaultGrace
	}
	return time.Duration(*c.Grace)
}
