// Package tap prints results in the Test Anything Protocol.
//
// Debian has no package of the library of this name that the programs of runtime-tools import. This stands in its place,
// with the methods that they call and nothing else.
package tap

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// T counts the tests of one program.
type T struct {
	count   int
	planned bool
	todo    bool
}

// New begins a program's tests.
func New() *T { return &T{} }

// Header prints the version of the protocol and, unless the number is 0, the plan.
func (t *T) Header(tests int) {
	fmt.Println("TAP version 13")
	if tests > 0 {
		fmt.Printf("1..%d\n", tests)
		t.planned = true
	}
}

// AutoPlan prints the plan last, from what was counted.
func (t *T) AutoPlan() {
	if !t.planned {
		fmt.Printf("1..%d\n", t.count)
	}
}

// Ok prints one result.
func (t *T) Ok(passed bool, description string) {
	t.count++
	word := "ok"
	if !passed {
		word = "not ok"
	}
	if t.todo {
		description, t.todo = "# TODO "+description, false
	}
	fmt.Printf("%s %d - %s\n", word, t.count, description)
}

// Todo marks the next result as one that may fail.
func (t *T) Todo() *T {
	t.todo = true
	return t
}

// Pass prints a success.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints a failure.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints that so many tests are left out, and why.
func (t *T) Skip(tests int, reason string) {
	for i := 0; i < tests; i++ {
		t.count++
		fmt.Printf("ok %d # SKIP %s\n", t.count, reason)
	}
}

// Diagnostic prints a remark, each of its lines as a comment.
func (t *T) Diagnostic(message string) {
	for _, line := range strings.Split(message, "\n") {
		fmt.Println("# " + line)
	}
}

// Diagnosticf formats a remark.
func (t *T) Diagnosticf(format string, a ...interface{}) { t.Diagnostic(fmt.Sprintf(format, a...)) }

// YAML prints details of the last result; JSON is YAML too.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "  ---\n  %s\n  ...\n", text)
	return err
}
