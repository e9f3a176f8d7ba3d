// Owns the stream peer in Go: net/http relays what the stub answers, as it comes.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

// What io.Copy and httputil.ReverseProxy read at once.
const readAtOnce = 32 * 1024

type proxy struct {
	stub   string
	client http.Client
}

func (p *proxy) relay(reply http.ResponseWriter, request *http.Request) {
	onward, err := http.NewRequestWithContext(request.Context(), http.MethodPost, p.stub, request.Body)
	if err != nil {
		http.Error(reply, err.Error(), http.StatusBadGateway)
		return
	}
	onward.ContentLength = request.ContentLength
	onward.Header.Set("Content-Type", "application/json")
	answer, err := p.client.Do(onward)
	if err != nil {
		http.Error(reply, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	reply.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	if answer.ContentLength >= 0 {
		reply.Header().Set("Content-Length", strconv.FormatInt(answer.ContentLength, 10))
	}
	reply.WriteHeader(answer.StatusCode)
	flusher := reply.(http.Flusher)
	buffer := make([]byte, readAtOnce)
	for {
		size, err := answer.Body.Read(buffer)
		if size > 0 {
			if _, err := reply.Write(buffer[:size]); err != nil {
				return
			}
			flusher.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			// Breaks the client's stream, which a clean end would not.
			panic(http.ErrAbortHandler)
		}
	}
}

func main() {
	port := "7070"
	if wanted, set := os.LookupEnv("PORT"); set {
		port = wanted
	}
	// Without this, all but two idle connections to the stub are closed.
	transport := &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}
	p := &proxy{stub: os.Args[1], client: http.Client{Transport: transport}}
	routes := http.NewServeMux()
	routes.HandleFunc("/generate", p.relay)
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err == nil {
		fmt.Printf("listening on http://%s \n", listener.Addr())
		// Every timeout of http.Server is off unless it is set.
		err = http.Serve(listener, routes)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
