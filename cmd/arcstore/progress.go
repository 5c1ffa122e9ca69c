package main

import (
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/arcboxlabs/arcstore"
)

// progress shows how far an operation is, with its rate and the time that
// remains, to somebody who watches.
type progress struct {
	app   *app
	bar   *progressbar.ProgressBar
	phase string
}

// progress returns nil, which shows nothing, unless stderr is a terminal.
func (a *app) progress() *progress {
	if a.quiet || !a.stderrIsTerminal() {
		return nil
	}
	return &progress{app: a}
}

// report returns what an operation is to call.
func (p *progress) report() func(arcstore.Progress) {
	if p == nil {
		return nil
	}
	return p.show
}

func (p *progress) show(now arcstore.Progress) {
	total := now.Total
	if total <= 0 {
		total = -1 // the bar is a spinner then
	}
	if p.bar == nil || now.Phase != p.phase {
		p.close()
		p.phase = now.Phase
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.app.stderr),
			progressbar.OptionSetDescription(now.Phase),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowTotalBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetWidth(30),
			progressbar.OptionClearOnFinish(),
		)
	}
	if total > 0 && total != p.bar.GetMax64() {
		p.bar.ChangeMax64(total)
	}
	// What a bar cannot show is no reason to stop.
	_ = p.bar.Set64(now.Done)
}

// close takes the bar off the screen.
func (p *progress) close() {
	if p != nil && p.bar != nil {
		_ = p.bar.Finish() // a spinner would go on turning
		_ = p.bar.Clear()
		p.bar = nil
	}
}
