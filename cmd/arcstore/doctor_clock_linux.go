package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// firstYear and lastYear are the years in which a clock that is right may be.
const firstYear, lastYear = 2025, 2100

func checkClock(context.Context) (finding, error) {
	var t unix.Timex // no modes: it only asks
	if _, err := unix.Adjtimex(&t); err != nil {
		return finding{statusLimited, "adjtimex: " + problem(err), "let this process ask whether the clock is synchronised"}, nil
	}
	return judgeClock(time.Now(), t.Status&unix.STA_UNSYNC == 0, time.Duration(t.Maxerror)*time.Microsecond), nil
}

// judgeClock tells what a clock is worth that shows now.
func judgeClock(now time.Time, synchronised bool, maxError time.Duration) finding {
	const advice = "run an NTP client (Debian: apt-get install systemd-timesyncd or chrony); snapshots are kept and pruned by this clock"
	shown := now.UTC().Format(time.RFC3339)
	switch {
	case now.Year() < firstYear || now.Year() > lastYear:
		return finding{statusMissing, shown + " cannot be", advice}
	case !synchronised:
		return finding{statusLimited, shown + ", not synchronised", advice}
	}
	return finding{Status: statusOK, Found: fmt.Sprintf("%s, synchronised, at most %s off", shown, took(maxError))}
}
