package guest

import (
	"os"
	"strings"
	"testing"
)

func TestConsole(t *testing.T) {
	output, input, err := os.Pipe()
	check(t, err)
	var log strings.Builder
	c := newConsole(output, &log)
	say := func(s string) {
		_, err := input.WriteString(s)
		check(t, err)
	}
	lineEnd := func(want bool) {
		t.Helper()
		got, err := c.lineEnd(testContext(t))
		if err != nil || got != want {
			t.Errorf("at the end of a line: %v, %v", got, err)
		}
	}
	lineEnd(true)
	say("boot\r\ncount 4\r\ncou")
	lineEnd(false)
	if n := c.lastCount(); n != 4 {
		t.Errorf("last count %d", n)
	}
	say("nt 5\r\ncount none\r\n")
	lineEnd(true)
	line, err := c.waitFor(testContext(t), func(line string) bool { return strings.HasPrefix(line, "count") })
	if line != "count 4" || err != nil {
		t.Errorf("got %q, %v", line, err)
	}
	line, err = c.waitFor(testContext(t), func(line string) bool { return line != "" })
	if line != "count 5" || err != nil {
		t.Errorf("got %q, %v", line, err)
	}
	if n := c.lastCount(); n != 5 {
		t.Errorf("last count %d", n)
	}
	say("end")
	check(t, input.Close())
	c.close()
	if want := "boot\r\ncount 4\r\ncount 5\r\ncount none\r\nend"; log.String() != want {
		t.Errorf("logged %q", log.String())
	}
}
