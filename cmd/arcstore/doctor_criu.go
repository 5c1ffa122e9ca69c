package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// criuAdvice says how to get CRIU. Distributions have it, but often too old for their newer kernels.
func criuAdvice() string {
	return fmt.Sprintf(`install CRIU %v or later, or build it and set %s (README.md, "Getting CRIU")`, criu.Wanted(), criu.PathVariable)
}

// needsLinux is the finding of checks of what only Linux has.
var needsLinux = finding{Status: statusMissing, Found: "needs Linux"}

// checkCRIU looks for CRIU, and whether it is not too old for this kernel.
func checkCRIU(ctx context.Context) (finding, error) {
	if runtime.GOOS != "linux" {
		return needsLinux, nil
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	path, v, err := criu.Usable(ctx)
	named := os.Getenv(criu.PathVariable)
	switch {
	case err == nil:
		return judgeCRIU(path, v), nil
	case path == "" && named != "":
		return finding{statusMissing, fmt.Sprintf("%s is %s, which is no program", criu.PathVariable, named), criuAdvice()}, nil
	case path == "":
		return finding{statusMissing, "no criu in PATH", criuAdvice()}, nil
	case v == criu.Version{}:
		return finding{statusMissing, problem(err), criuAdvice()}, nil
	}
	return finding{statusMissing, fmt.Sprintf("CRIU %v (%s), too old for this kernel", v, path), criuAdvice()}, nil
}

// judgeCRIU tells what a CRIU that is new enough cannot do here yet.
func judgeCRIU(path string, v criu.Version) finding {
	f := finding{Status: statusOK, Found: fmt.Sprintf("CRIU %v (%s)", v, path)}
	if kernel, err := criu.Kernel(); err == nil && !criu.DumpsSockets(v, kernel) {
		f.Status, f.Advice = statusLimited, criuAdvice()
		f.Found += fmt.Sprintf(", which cannot dump Internet sockets on Linux %v", kernel)
	}
	return f
}

// checkKernelForCRIU lets CRIU check the kernel, and its own rights.
func checkKernelForCRIU(ctx context.Context) (finding, error) {
	path, err := criu.Find()
	if err != nil {
		return withoutCRIU(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	warning, err := criu.Check(ctx, path)
	switch {
	case err != nil && os.Geteuid() != 0:
		return finding{statusMissing, problem(err), "run arcstore doctor as root (sudo) to see what CRIU can do there"}, nil
	case err != nil:
		return finding{statusMissing, problem(err), "criu check -v4 says more; mostly it is a kernel or a container that lacks what CRIU needs, or a CRIU that is too old"}, nil
	case warning != "":
		return finding{statusLimited, warning, "criu check --all says what is missing"}, nil
	}
	return finding{Status: statusOK, Found: "criu check: looks good"}, nil
}

// criuFeatures are what CRIU can do without, and what for, in the words of criu check --feature.
var criuFeatures = []struct{ name, purpose string }{
	{"mem_dirty_track", "pre-dumps"},
}

// checkCRIUFeatures asks for each feature. Without rights CRIU denies that there is any, so those come first.
func checkCRIUFeatures(ctx context.Context) (finding, error) {
	path, err := criu.Find()
	if err != nil {
		return withoutCRIU(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	if _, err := criu.Check(ctx, path); err != nil {
		return finding{Status: statusMissing, Found: "criu check fails"}, nil
	}
	var has, lacks, lost []string
	for _, feature := range criuFeatures {
		ok, err := criu.HasFeature(ctx, path, feature.name)
		switch {
		case err != nil:
			return finding{Status: statusMissing, Found: problem(err)}, nil
		case ok:
			has = append(has, feature.name)
		default:
			lacks, lost = append(lacks, feature.name), append(lost, feature.purpose)
		}
	}
	f := finding{Status: statusOK, Found: strings.Join(has, ", ")}
	if len(lacks) > 0 {
		f.Status = statusLimited
		f.Found = strings.TrimPrefix(f.Found+", no "+strings.Join(lacks, ", no "), ", ")
		f.Advice = "use a kernel that has what is lacking; without, there are no " + strings.Join(lost, " and no ") + ", and all else works"
	}
	return f, nil
}

func withoutCRIU() finding {
	if runtime.GOOS != "linux" {
		return needsLinux
	}
	return finding{Status: statusMissing, Found: "no CRIU"}
}
