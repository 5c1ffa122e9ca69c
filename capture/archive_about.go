package capture

import (
	"cmp"
	"encoding/json"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// maxDump bounds the descriptions in an archive that are looked at, in bytes.
const maxDump = 16 << 20

// about returns what an archive says of its container. The members' names and fields are those of podman, CRI-O and containerd, as
// github.com/checkpoint-restore/checkpointctl/lib has them. What is not there, or unknown, is left out.
func (t *tarball) about() (*manifest.Checkpoint, error) {
	var config struct {
		ID              string `json:"id"`
		Name            string `json:"name"`
		RootfsImageName string `json:"rootfsImageName"`
		Runtime         string `json:"runtime"`
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := t.lookAt("config.dump", &config); err != nil {
		return nil, err
	}
	if err := t.lookAt("spec.dump", &spec); err != nil {
		return nil, err
	}
	a := spec.Annotations
	engine := a["org.criu.checkpoint.engine.name"]
	switch {
	case engine != "":
	case a["io.container.manager"] == "libpod":
		engine = "podman"
	case a["io.container.manager"] != "":
		engine = a["io.container.manager"]
	case a["io.kubernetes.cri.container-name"] != "":
		engine = "containerd"
	}
	return &manifest.Checkpoint{
		Engine: cmp.Or(engine, "criu"),
		Name:   cmp.Or(a["org.criu.checkpoint.container.name"], a["io.kubernetes.cri.container-name"], a["io.kubernetes.container.name"], config.Name, config.ID),
		Image:  cmp.Or(config.RootfsImageName, a["org.criu.checkpoint.rootfsImageName"]),
		CRIU:   a["org.criu.checkpoint.criu.version"],
	}, nil
}

// lookAt decodes a JSON member, if it is there and is that.
func (t *tarball) lookAt(name string, v any) error {
	for i := range t.members {
		m := &t.members[i]
		if m.name != name || m.size > maxDump {
			continue
		}
		b := make([]byte, m.size)
		if err := chunker.ReadFull(&m.section, b, 0); err != nil {
			return err
		}
		_ = json.Unmarshal(b, v) // as far as it goes
	}
	return nil
}
