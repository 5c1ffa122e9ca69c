package manifest

import (
	"errors"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, test := range []struct {
		valid     func(string) error
		good, bad []string
	}{
		{ValidName,
			[]string{"memory", "criu/pages-1.img", "...", "a b", ".hidden", "ü", long, "a/..b"},
			[]string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", `a\b`, "a\x00b", "a\nb", "a\x7f", "a\u0085", "\xff", long + "x"}},
		{ValidTarget,
			[]string{"web-1", "prod/web_1:2", "a", "ü", "1.2", long},
			[]string{"", "/a", "a/", "a//b", "a b", "a@b", "a\x00", "\xff", long + "x"}},
		{ValidID,
			[]string{"a", "A.b_c-9", "-x", strings.Repeat("f", 64)},
			[]string{"", ".", ".a", "a/b", "ü", "a b", "a\x00", strings.Repeat("f", 65)}},
		{func(s string) error { _, err := ParseDigest(s); return err },
			[]string{strings.Repeat("0a", 32)},
			[]string{"", "0a", strings.Repeat("0A", 32), strings.Repeat("0g", 32), strings.Repeat("0a", 33), strings.Repeat("0a", 31) + "0"}},
	} {
		for _, s := range test.good {
			if err := test.valid(s); err != nil {
				t.Error(err)
			}
		}
		for _, s := range test.bad {
			if err := test.valid(s); !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "manifest: ") || strings.Count(err.Error(), "manifest: ") > 1 {
				t.Errorf("%q: %v", s, err)
			}
		}
	}
	var d Digest
	if err := d.UnmarshalText(nil); err != nil || d != (Digest{}) {
		t.Errorf("%v, %v", d, err)
	}
	if text, err := d.MarshalText(); err != nil || len(text) != 0 {
		t.Errorf("%q, %v", text, err)
	}
}
