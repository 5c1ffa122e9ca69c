package manifest

import (
	"errors"
	"os"
	"reflect"
	"testing"
)

// goldenArchive is what testdata/v1/archive.json holds.
func goldenArchive() *Archive {
	return &Archive{Format: 1, Size: 10240, Members: []Member{
		{"archive/config.dump", 512, 100}, {"criu/pages-1.img", 1536, 4096}, {"archive/empty", 6144, 0},
	}}
}

func TestArchive(t *testing.T) {
	golden, err := os.ReadFile("testdata/v1/archive.json")
	if err != nil {
		t.Fatal(err)
	}
	a := goldenArchive()
	a.Format = 0
	if b, err := a.Encode(); err != nil || string(b) != string(golden) {
		t.Errorf("%v; it encodes to\n%s\nnot\n%s", err, b, golden)
	}
	if a, err := DecodeArchive(golden); err != nil || !reflect.DeepEqual(a, goldenArchive()) || a.Rest() != 10240-4196 {
		t.Errorf("%+v, %v, want %+v", a, err, goldenArchive())
	}
	for _, m := range [][]Member{
		{{"a", 0, 10}, {"b", 9, 1}}, {{"a", -1, 10}}, {{"a", 0, -1}}, {{"a", 90, 11}}, {{"a", 1 << 62, 1 << 62}}, {{"../a", 0, 1}}, {{"a", 5, 1}, {"b", 1, 1}},
	} {
		if _, err := (&Archive{Size: 100, Members: m}).Encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", m, err)
		}
	}
	for _, text := range []string{"", "null", `{"format": 1, "size": -1}`, `{"format": 1, "size": 1, "members": [{"stream": "a", "size": 2}]}`} {
		if a, err := DecodeArchive([]byte(text)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", text, a, err)
		}
	}
}
