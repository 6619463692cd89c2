package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// place is where a value was given: in a file, or by a flag or an environment
// variable. The zero place is a default's.
type place struct {
	source    string // file name, "-listen", "NEARSIDE_LISTEN"
	line, col int    // 0: not in a file
}

func (p place) String() string {
	if p.line == 0 {
		return p.source
	}
	return fmt.Sprintf("%s:%d:%d", p.source, p.line, p.col)
}

// configError is a mistake in the configuration and where it was made.
type configError struct {
	at     place
	reason string
}

func (e *configError) Error() string { return e.at.String() + ": " + shorten(e.reason) }

// mostReason bounds an error: it may quote what is in the file.
const mostReason = 2000

func shorten(s string) string {
	if len(s) <= mostReason {
		return s
	}
	return strings.ToValidUTF8(s[:mostReason], "") + "…"
}

// setter stores the value of one key. The reason in its error gets the
// position of the value.
type setter func(d *decoder, n ast.Node, path string) error

// fields are the keys that one mapping may have.
type fields map[string]setter

// decoder walks a YAML document along a table of setters. It differs from
// decoding into a struct in that every error, those found later included,
// names the line and the column.
type decoder struct {
	file string
	at   map[string]place // where each value stands, by its dotted path
}

// decode reads one YAML document whose keys are the given ones.
func (d *decoder) decode(data []byte, keys fields) (err error) {
	defer func() {
		if recover() != nil { // a hostile file must not take the parser's word for a crash
			err = d.errorAt(nil, "this is not YAML")
		}
	}()
	tokens, err := d.tokens(data)
	if err != nil {
		return err
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates are found in mapping
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) {
			return d.errorAt(ye.GetToken(), "%s", syntax(ye.GetMessage()))
		}
		return d.errorAt(nil, "%s", oneLine(err.Error()))
	}
	var docs []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	switch {
	case len(docs) == 0:
		return d.errorAt(nil, "the file is empty")
	case len(docs) > 1:
		return d.errorAt(start(docs[1]), "a second document begins here; one file holds one configuration")
	}
	return mapping(keys)(d, docs[0], "")
}

// errorAt is an error at a token; nil is the beginning of the file.
func (d *decoder) errorAt(t *token.Token, format string, args ...any) error {
	return &configError{d.placeOf(t), fmt.Sprintf(format, args...)}
}

func (d *decoder) placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{d.file, 1, 1}
	}
	return place{d.file, t.Position.Line, t.Position.Column}
}

// mapping decodes a mapping with the given keys, each at most once.
func mapping(keys fields) setter {
	return func(d *decoder, n ast.Node, path string) error {
		pairs, err := d.pairs(n, path, keys)
		if err != nil {
			return err
		}
		first := map[string]*token.Token{}
		for _, p := range pairs {
			at := start(p.Key)
			k, ok := p.Key.(*ast.StringNode)
			if !ok {
				return d.errorAt(at, "unknown key %q%s%s", at.Value, in(path), keys.instead(at.Value))
			}
			set, ok := keys[k.Value]
			if !ok {
				return d.errorAt(at, "unknown key %q%s%s", k.Value, in(path), keys.instead(k.Value))
			}
			if f := first[k.Value]; f != nil {
				return d.errorAt(at, "%q is given twice, first in line %d", k.Value, f.Position.Line)
			}
			first[k.Value] = at
			sub := strings.TrimPrefix(path+"."+k.Value, ".")
			if _, empty := p.Value.(*ast.NullNode); empty {
				return d.errorAt(at, "%q has no value", k.Value)
			}
			if err := d.set(p.Value, sub, set); err != nil {
				return err
			}
		}
		return nil
	}
}

// pairs are the keys and values of a mapping that may have the given keys.
func (d *decoder) pairs(n ast.Node, path string, keys fields) ([]*ast.MappingValueNode, error) {
	switch v := n.(type) {
	case *ast.MappingNode:
		return v.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{v}, nil
	}
	if path == "" {
		return nil, d.errorAt(start(n), `expected keys and values, such as "redis: redis://127.0.0.1:6379"`)
	}
	return nil, d.errorAt(start(n), "%s must have keys and values: %s", path, keys)
}

// list decodes a sequence; add is called for each element.
func list(add setter) setter {
	return func(d *decoder, n ast.Node, path string) error {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			if _, one := n.(ast.ScalarNode); one {
				return d.errorAt(start(n), "%s must be a list: write [%s]", path, start(n).Value)
			}
			return d.errorAt(start(n), `%s must be a list: begin each element with "- "`, path)
		}
		for i, v := range seq.Values {
			if err := d.set(v, path+"["+strconv.Itoa(i)+"]", add); err != nil {
				return err
			}
		}
		return nil
	}
}

// listOrOne is list, but a single scalar is taken for a list of one.
func listOrOne(add setter) setter {
	return func(d *decoder, n ast.Node, path string) error {
		if _, ok := n.(ast.ScalarNode); ok {
			return d.set(n, path+"[0]", add)
		}
		return list(add)(d, n, path)
	}
}

// set notes where the value stands and decodes it.
func (d *decoder) set(n ast.Node, path string, set setter) error {
	d.at[path] = d.placeOf(start(n))
	err := set(d, n, path)
	var ce *configError
	if err == nil || errors.As(err, &ce) {
		return err
	}
	return d.errorAt(start(n), "%s: %s", path, err)
}

// scalar decodes text, a number or a word by parse, which states the reason
// only.
func scalar(parse func(string) error) setter {
	return func(_ *decoder, n ast.Node, _ string) error {
		switch v := n.(type) {
		case *ast.StringNode:
			return parse(v.Value)
		case *ast.LiteralNode:
			return parse(v.Value.Value)
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
			return parse(n.GetToken().Value)
		case *ast.MappingNode:
			if whole, ok := joined(v); ok {
				return parse(whole)
			}
		case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
			return errors.New("anchors, aliases and tags are not supported")
		}
		return errors.New("must be a single value")
	}
}

// text decodes what must be text: a prefix 123 has to be written "123", so
// that nobody wonders what became of 0123 or 1e3.
func text(parse func(string) error) setter {
	return func(d *decoder, n ast.Node, path string) error {
		switch n.(type) {
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
			if err := parse(n.GetToken().Value); err != nil { // quotes would not help
				return err
			}
			return fmt.Errorf("must be text: write %q in quotes", n.GetToken().Value)
		}
		return scalar(parse)(d, n, path)
	}
}

// start is the first token of a node, where a reader looks for it.
func start(n ast.Node) *token.Token {
	switch v := n.(type) {
	case *ast.MappingNode:
		if len(v.Values) > 0 && !v.IsFlowStyle {
			return start(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return start(v.Key)
	}
	return n.GetToken()
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
