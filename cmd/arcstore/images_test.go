package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// imagesPID is the process in the images that tests make: none has so high an ID.
const imagesPID = 1 << 30

// scriptMakeImages is "mkimages DIR [PID]": images of one process that look complete, of which nothing can be restored.
func scriptMakeImages(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: mkimages DIR [PID]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	pid := proto.Uint32(imagesPID)
	if len(args) > 1 {
		*pid = uint32(scriptInt(ts, args[1]))
	}
	name := func(kind string) string { return fmt.Sprintf("%s-%d.img", kind, *pid) }
	for _, image := range []struct {
		name   string
		kind   criu.Type
		record proto.Message // nil for none
	}{
		{"inventory.img", criu.TypeInventory, &inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}},
		{"pstree.img", criu.TypePstree, &pstree.PstreeEntry{Pid: pid, Ppid: proto.Uint32(0), Pgid: pid, Sid: pid, Threads: []uint32{*pid}}},
		{name("core"), criu.TypeCore, &criu_core.CoreEntry{Tc: &criu_core.TaskCoreEntry{Comm: proto.String("made"), TaskState: proto.Uint32(1)}}},
		{name("mm"), criu.TypeMM, nil},
		{name("pagemap"), criu.TypePagemap, &pagemap.PagemapHead{PagesId: proto.Uint32(1)}},
		{"pages-1.img", 0, nil},
		{name("fs"), 0, nil},
		{"files.img", criu.TypeFiles, nil},
	} {
		var b []byte
		if image.kind != criu.TypeInventory { // which has no common number
			b = binary.LittleEndian.AppendUint32(b, 0x54564319)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(image.kind))
		if image.record != nil {
			record, err := proto.MarshalOptions{AllowPartial: true}.Marshal(image.record)
			ts.Check(err)
			b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
		}
		if image.name == "pages-1.img" {
			b = nil
		}
		ts.Check(os.WriteFile(filepath.Join(dir, image.name), b, 0o600))
	}
}
