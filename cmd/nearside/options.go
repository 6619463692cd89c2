package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// tokenVariable is where the environment has the token. There is no flag: everybody
// on the machine can read those.
const tokenVariable = "NEARSIDE_ADMIN_TOKEN"

// options is what the command line and the environment say.
type options struct {
	config    string
	test      bool
	version   bool
	health    bool
	token     string     // for the HTTP endpoints
	overrides []override // at most one for each key
}

// embedded says whether nearside brings its own Redis.
func (o *options) embedded() bool {
	if o.config != "" {
		return false
	}
	for _, v := range o.overrides {
		if v.key == "redis" {
			return false
		}
	}
	return true
}

const usage = `nearside: a near cache in front of Redis that speaks Redis

  nearside                         embedded Redis, the sample rules: for trying it out
  nearside -config FILE            the real thing
  nearside -t -config FILE         check the configuration

`

var errUsage = errors.New("usage")

// parseOptions reads flags and environment; flags win. On errUsage the reason
// has been written to stderr; flag.ErrHelp means that help was asked for.
func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("nearside", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
		fmt.Fprint(stderr, "\nFlags beat the environment, the environment beats the file.\n")
	}
	fs.StringVar(&o.config, "config", "", "read the configuration from `FILE` (environment NEARSIDE_CONFIG)")
	fs.BoolVar(&o.test, "t", false, "check the configuration and exit")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
	fs.BoolVar(&o.health, "health", false, "ask the nearside that runs at the admin address for /healthz; exit 0 if it is alive")
	fs.String("redis", "", "`URL` of the Redis behind nearside (NEARSIDE_REDIS)")
	fs.String("listen", "", "`ADDRESSES` for clients, separated by commas; also unix:/path (NEARSIDE_LISTEN)")
	fs.String("admin", "", "`ADDRESS` of the HTTP endpoints; \"\" switches them off (NEARSIDE_ADMIN)")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "nearside: unexpected argument %q: a file is given by -config; nearside -h lists the flags\n", fs.Arg(0))
		return nil, errUsage
	}

	o.token = getenv(tokenVariable)
	given := map[string]string{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = f.Value.String() })
	if _, ok := given["config"]; !ok {
		o.config = getenv("NEARSIDE_CONFIG")
	} else if o.config == "" {
		fmt.Fprintln(stderr, "nearside: -config needs a file name")
		return nil, errUsage
	}
	for _, key := range []struct{ name, env string }{
		{"redis", "NEARSIDE_REDIS"}, {"listen", "NEARSIDE_LISTEN"}, {"admin", "NEARSIDE_ADMIN"},
	} {
		if v, ok := given[key.name]; ok {
			o.overrides = append(o.overrides, override{key.name, v, "-" + key.name})
		} else if v := getenv(key.env); v != "" { // set but empty counts as not set, as in most container files
			o.overrides = append(o.overrides, override{key.name, v, key.env})
		}
	}
	return o, nil
}
