package main

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// What all tests share: one build of nearside.
var (
	buildDir    string
	testContext context.Context
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if buildDir, err = os.MkdirTemp("", "consistency"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(buildDir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	testContext = ctx
	return m.Run()
}
