// A pod for the cluster's own test: it answers over HTTP, and `kubectl exec`
// runs its subcommands, as the image holds no shell.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// version is set at build time: two images of one name must differ in it.
var version = "unset"

func main() {
	if len(os.Args) == 1 {
		serve()
		return
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() {
	log.Printf("probe %s listens", version)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "version=%s client=%s\n", version, r.RemoteAddr)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func run(command string, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: postern lookup|get|cat|touch ARGUMENT")
	}
	switch command {
	case "lookup": // NAME: its addresses, by the resolver that kubelet wrote
		addresses, err := net.LookupHost(args[0])
		if err != nil {
			return err
		}
		fmt.Println(addresses)
	case "get": // URL: the body
		client := http.Client{Timeout: 5 * time.Second}
		answer, err := client.Get(args[0])
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(os.Stdout, answer.Body)
		return err
	case "cat": // FILE
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		fmt.Print(string(text))
	case "touch": // FILE: proves that a volume can be written
		return os.WriteFile(args[0], []byte("written\n"), 0o644)
	default:
		return fmt.Errorf("unknown command %q", command)
	}
	return nil
}
