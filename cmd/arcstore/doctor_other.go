//go:build !linux

package main

import "context"

func checkPrivileges(context.Context) (finding, error)         { return needsLinux, nil }
func checkSoftDirty(context.Context) (finding, error)          { return needsLinux, nil }
func checkUserfaultfd(context.Context) (finding, error)        { return needsLinux, nil }
func checkFUSE(context.Context) (finding, error)               { return needsLinux, nil }
func checkKVM(context.Context) (finding, error)                { return needsLinux, nil }
func checkTemporaryDirectory(context.Context) (finding, error) { return needsLinux, nil }
func checkClock(context.Context) (finding, error)              { return needsLinux, nil }

func checkStoreSpace(string) (finding, error) { return needsLinux, nil }
func checkHoles(string) (finding, error)      { return needsLinux, nil }
func checkFlock(string) (finding, error)      { return needsLinux, nil }
