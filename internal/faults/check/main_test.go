package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", `{"kind":"send","n":1,"id":"a","outcome":"acked"}
{"kind":"begin","n":1,"id":"a","run":1,"attempt":1,"who":"w"}
{"kind":"end","n":1,"id":"a","run":1,"attempt":1,"who":"w","outcome":"done"}
{"kind":"fault","what":"kill"}
{"kind":"record","id":"a","revision":1,"record":{"id":"a","run":1,"state":"succeeded","attempt":1,"worker":"w","result":{"n":1,"attempt":1,"fence":0,"who":"w"}}}
{"kind":"left","what":"tasks"}
`)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{good}, 0, "1 faults (kill 1); sends: 1 acknowledged"},
		{[]string{file("lost", `{"kind":"send","n":1,"id":"a","outcome":"acked"}`+"\n")}, 1, "lost: a: "},
		{[]string{file("torn", `{"kind":`)}, 2, "torn: history: line 1: "},
		{[]string{filepath.Join(folder, "nosuch")}, 2, "nosuch"},
		{nil, 2, "usage: check FILE"},
	} {
		var out, errOut strings.Builder
		if code := run(tc.args, &out, &errOut); code != tc.code || !strings.Contains(out.String()+errOut.String(), tc.want) {
			t.Errorf("%v: exit %d, want %d: %s%s", tc.args, code, tc.code, &out, &errOut)
		}
	}
}
