// Package configs holds the sample configurations.
package configs

import _ "embed"

// Sample is nearside.yaml: what nearside runs with when it is given no file.
//
//go:embed nearside.yaml
var Sample []byte
