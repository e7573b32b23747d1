// A client of a kubelet's streaming endpoints over WebSockets, as kubectl has it through an API server:
//
//	client exec URL             runs what the URL says; our input and output are its, and so is our status
//	client portforward URL PORT forwards one connection to a pod's port, asks for / by HTTP and prints the answer
//
// Executors and dialers are those of client-go, with subprotocols v5.channel.k8s.io and
// SPDY/3.1+portforward.k8s.io. There is no way back to SPDY: what a server refuses is an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

const limit = 30 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		var status exec.CodeExitError
		if errors.As(err, &status) {
			os.Exit(status.ExitStatus())
		}
		os.Exit(125)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: client exec URL | client portforward URL PORT")
	}
	target, err := url.Parse(args[1])
	if err != nil {
		return err
	}
	// The kubelet's certificate is one that it made for itself.
	config := &rest.Config{
		Host:            target.Scheme + "://" + target.Host,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	switch args[0] {
	case "exec":
		return execute(ctx, config, target)
	case "portforward":
		if len(args) != 3 {
			return errors.New("portforward needs a port")
		}
		return forward(ctx, config, target, args[2])
	default:
		return fmt.Errorf("unknown command %q", args[0])
	}
}

func execute(ctx context.Context, config *rest.Config, target *url.URL) error {
	executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr}
	if target.Query().Get("input") != "" {
		options.Stdin = os.Stdin
	}
	return executor.StreamWithContext(ctx, options)
}

func forward(ctx context.Context, config *rest.Config, target *url.URL, port string) error {
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local), http.NoBody)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the pod answers %s", answer.Status)
	}
	if _, err := io.Copy(os.Stdout, io.LimitReader(answer.Body, 1<<20)); err != nil {
		return err
	}
	close(stop)
	return <-ended
}
