package main

import (
	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// Only what a test cluster asks for: the full list of plugins would link
	// the SDKs of three clouds.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

// runCoreDNS takes CoreDNS's own flags (-conf FILE).
func runCoreDNS() int {
	caddy.Quiet = true
	// The order in which plugins handle a query; CoreDNS generates it from
	// plugin.cfg, and this is the same order, shortened.
	dnsserver.Directives = []string{
		"reload", "bind", "ready", "errors", "log", "cache", "template",
		"hosts", "file", "kubernetes", "forward",
	}
	coremain.Run() // ends the process itself when it fails
	return 0
}
