// Command client talks to the streaming server as kubectl, crictl and critest do: with client-go.
// The tests of crate pouch-streaming run it; see ../go_client.rs.
//
//	client exec    -url URL [-websocket] [-stdin] [-stdout] [-stderr] [-tty] [-sizes 80x24,100x40]
//	client forward -url URL [-websocket] -ports PORT,PORT…
//
// exec copies its own standard streams and ends with the command's exit code; 125 is a failure of
// the session, whose text goes to standard error. forward prints "LOCAL REMOTE" for each port and
// goes on until its standard input ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

const failed = 125

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("exec or forward"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("url", "", "where to connect")
	websocket := flags.Bool("websocket", false, "WebSocket instead of SPDY")
	switch os.Args[1] {
	case "exec":
		stdin := flags.Bool("stdin", false, "")
		stdout := flags.Bool("stdout", false, "")
		stderr := flags.Bool("stderr", false, "")
		tty := flags.Bool("tty", false, "")
		sizes := flags.String("sizes", "", "sizes of the terminal, one after the other")
		parse(flags)
		options := remotecommand.StreamOptions{Tty: *tty}
		if *stdin {
			options.Stdin = os.Stdin
		}
		if *stdout {
			options.Stdout = os.Stdout
		}
		if *stderr {
			options.Stderr = os.Stderr
		}
		if *sizes != "" {
			options.TerminalSizeQueue = queue(*sizes)
		}
		run(parseURL(*address), *websocket, options)
	case "forward":
		ports := flags.String("ports", "", "")
		parse(flags)
		forward(parseURL(*address), *websocket, strings.Split(*ports, ","))
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func parse(flags *flag.FlagSet) {
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
}

func parseURL(address string) *url.URL {
	parsed, err := url.Parse(address)
	if err != nil {
		fail(err)
	}
	return parsed
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(failed)
}

func run(address *url.URL, websocket bool, options remotecommand.StreamOptions) {
	var executor remotecommand.Executor
	var err error
	if websocket {
		executor, err = remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", address.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", address)
	}
	if err != nil {
		fail(err)
	}
	err = executor.StreamWithContext(context.Background(), options)
	var exit exec.CodeExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	default:
		fail(err)
	}
}

// sizes gives the sizes of a terminal, with a moment between them.
type sizes struct{ left []remotecommand.TerminalSize }

func queue(text string) *sizes {
	var all sizes
	for _, word := range strings.Split(text, ",") {
		width, height, found := strings.Cut(word, "x")
		columns, err := strconv.ParseUint(width, 10, 16)
		if err != nil || !found {
			fail(fmt.Errorf("no size: %q", word))
		}
		lines, err := strconv.ParseUint(height, 10, 16)
		if err != nil {
			fail(err)
		}
		all.left = append(all.left, remotecommand.TerminalSize{Width: uint16(columns), Height: uint16(lines)})
	}
	return &all
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		return nil
	}
	next := s.left[0]
	s.left = s.left[1:]
	time.Sleep(50 * time.Millisecond)
	return &next
}

func forward(address *url.URL, websocket bool, ports []string) {
	var dialer httpstream.Dialer
	if websocket {
		tunnel, err := portforward.NewSPDYOverWebsocketDialer(address, &rest.Config{})
		if err != nil {
			fail(err)
		}
		dialer = tunnel
	} else {
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		if err != nil {
			fail(err)
		}
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", address)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	pairs := make([]string, len(ports))
	for i, port := range ports {
		pairs[i] = "0:" + port
	}
	forwarder, err := portforward.New(dialer, pairs, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		fail(err)
	}
	go func() {
		<-ready
		forwarded, err := forwarder.GetPorts()
		if err != nil {
			fail(err)
		}
		for _, port := range forwarded {
			fmt.Println(port.Local, port.Remote)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if err := forwarder.ForwardPorts(); err != nil {
		fail(err)
	}
}
