package manifest

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestMachine(t *testing.T) {
	m := goldenMachine()
	m.Format = 0
	b, err := m.Encode()
	if err != nil || m.Format != 0 {
		t.Fatalf("%v; the format is %d", err, m.Format)
	}
	got, err := DecodeMachine(b)
	if want := goldenMachine(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if err := got.Validate(3<<30 + 4096); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "{", "[]", "null", string(b) + "{}", `{"format": -1}`, `{"format": 1, "regions": 7}`,
		`{"format": 1, "vcpus": [{"registers": {"rip": 18446744073709551616}}]}`, `{"format": 1, "vcpus": [{"registers": {"rip": 1.5}}]}`} {
		if m, err := DecodeMachine([]byte(text)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	if _, err := DecodeMachine(make([]byte, MaxMachineSize+1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("too large: %v", err)
	}
	if _, err := (&Machine{Architecture: strings.Repeat("x", MaxMachineSize)}).Encode(); !errors.Is(err, ErrInvalid) {
		t.Errorf("too large: %v", err)
	}
	if _, err := (&Machine{VCPUs: []VCPU{{Registers: map[string]uint64{"\xff": 1}}}}).Encode(); !errors.Is(err, ErrInvalid) {
		t.Errorf("no text: %v", err)
	}
}

func TestMachineValidate(t *testing.T) {
	const size = 1 << 20
	for _, test := range []struct {
		name string
		m    Machine
		want string // "" for a valid one
	}{
		{"nothing", Machine{}, ""},
		{"one region", Machine{Regions: []Region{{0, size, 0, false}}}, ""},
		{"two that touch", Machine{Regions: []Region{{4096, size - 4096, 4096, false}, {0, 4096, 0, false}}}, ""},
		{"two in another order", Machine{Regions: []Region{{0, 4096, 4096, false}, {4096, 4096, 0, false}}}, ""},
		{"the last address", Machine{Regions: []Region{{1<<64 - 4096, 4096, 0, false}}}, ""},
		{"beyond the last address", Machine{Regions: []Region{{1<<64 - 4095, 4096, 0, false}}}, "last address"},
		{"empty", Machine{Regions: []Region{{0, 0, 0, false}}}, "outside"},
		{"negative", Machine{Regions: []Region{{0, -1, 0, false}}}, "outside"},
		{"negative offset", Machine{Regions: []Region{{0, 1, -1, false}}}, "outside"},
		{"outside", Machine{Regions: []Region{{0, 2, size - 1, false}}}, "outside"},
		{"far outside", Machine{Regions: []Region{{0, 1, 1<<63 - 1, false}}}, "outside"},
		{"too large", Machine{Regions: []Region{{0, 1<<63 - 1, 1, false}}}, "outside"},
		{"shared memory", Machine{Regions: []Region{{0, 4096, 0, false}, {8192, 4096, 4095, false}}}, "share the memory"},
		{"shared addresses", Machine{Regions: []Region{{0, 4096, 0, false}, {4095, 4096, 4096, false}}}, "share the guest address"},
		{"the same address", Machine{Regions: []Region{{7, 4096, 0, false}, {7, 4096, 4096, false}}}, "share the guest address"},
		{"one inside the other", Machine{Regions: []Region{{0, 8192, 0, false}, {4096, 1, 8192, false}}}, "share the guest address"},
		{"vCPU twice", Machine{VCPUs: []VCPU{{Index: 1}, {Index: 1}}}, "twice"},
		{"vCPU negative", Machine{VCPUs: []VCPU{{Index: -1}}}, "negative"},
		{"device twice", Machine{Devices: []Device{{"a", "b", ""}, {"a", "b", ""}}}, "twice"},
		{"devices of two types", Machine{Devices: []Device{{"a", "b", "x"}, {"b", "b", "y"}}}, ""},
		{"an escaping stream", Machine{VCPUs: []VCPU{{State: "../x"}}}, "stream name"},
		{"a device that makes none", Machine{Devices: []Device{{"a", "", DeviceStream("a", "")}}}, "stream name"},
		{"a stream twice", Machine{VCPUs: []VCPU{{State: "x"}}, Devices: []Device{{"a", "b", "x"}}}, "two uses"},
		{"the memory", Machine{VCPUs: []VCPU{{State: MemoryStream}}}, "two uses"},
	} {
		err := test.m.Validate(size)
		if test.want == "" && err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}
