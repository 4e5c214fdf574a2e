// What Flux and every other user of kstatus believes of objects: JSON objects or lists of them on standard input
// (as `kubectl get -o json` prints them), one line each on standard output: kind, name, status, message.
//
// The rules are the library's own, as Flux runs it; nothing is decided here.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(in)
	for {
		var raw json.RawMessage
		switch err := decoder.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		// This reader keeps whole numbers whole, as the API machinery does.
		read, _, err := unstructured.UnstructuredJSONScheme.Decode(raw, nil, nil)
		if err != nil {
			return err
		}
		objects := []unstructured.Unstructured{}
		switch one := read.(type) {
		case *unstructured.UnstructuredList:
			objects = one.Items
		case *unstructured.Unstructured:
			objects = append(objects, *one)
		}
		for _, object := range objects {
			result, err := status.Compute(&object)
			if err != nil {
				return fmt.Errorf("%s/%s: %w", object.GetKind(), object.GetName(), err)
			}
			message := strings.ReplaceAll(result.Message, "\n", " ")
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", object.GetKind(), object.GetName(), result.Status, message)
		}
	}
}
