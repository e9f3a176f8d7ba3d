// Owns the peer in Go: net/http, one mutex, the waiters in a map by their key.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
)

// A run and a waiter match if all four parts of their keys are equal.
type key struct {
	deployment, version string
	cpu, memory         float64
}

// A waiter is one held poll. Its inbox buffers the one run that it can get, so a match never blocks.
type waiter struct {
	inbox chan []byte
	place int
}

// The pools, the newest waiter last.
type pools struct {
	sync.Mutex
	waiters map[key][]*waiter
}

func (p *pools) park(k key) *waiter {
	w := &waiter{inbox: make(chan []byte, 1)}
	p.Lock()
	defer p.Unlock()
	w.place = len(p.waiters[k])
	p.waiters[k] = append(p.waiters[k], w)
	return w
}

// Hands the run to the newest waiter with the key, if there is one.
func (p *pools) match(k key, run []byte) bool {
	p.Lock()
	defer p.Unlock()
	pool := p.waiters[k]
	if len(pool) == 0 {
		return false
	}
	w := pool[len(pool)-1]
	p.remove(k, w)
	w.inbox <- run
	return true
}

// Leaves the pool; a waiter that was matched has left already.
func (p *pools) leave(k key, w *waiter) {
	p.Lock()
	defer p.Unlock()
	if w.place >= 0 {
		p.remove(k, w)
	}
}

// The last waiter moves to the place of the removed one.
func (p *pools) remove(k key, w *waiter) {
	pool := p.waiters[k]
	last := len(pool) - 1
	pool[w.place] = pool[last]
	pool[w.place].place = w.place
	pool[last] = nil
	w.place = -1
	if last == 0 {
		delete(p.waiters, k)
	} else {
		p.waiters[k] = pool[:last]
	}
}

type broker struct {
	pools
	fresh bool
}

// Waits for a run, or for the controller to go away.
func (b *broker) hold(reply http.ResponseWriter, request *http.Request) {
	cpu, badCPU := strconv.ParseFloat(request.Header.Get("X-Trigger-Machine-Cpu"), 64)
	memory, badMemory := strconv.ParseFloat(request.Header.Get("X-Trigger-Machine-Memory"), 64)
	if badCPU != nil || badMemory != nil {
		http.Error(reply, "not a poll", http.StatusBadRequest)
		return
	}
	k := key{
		deployment: request.Header.Get("X-Trigger-Deployment-Id"),
		version:    request.Header.Get("X-Trigger-Deployment-Version"),
		cpu:        cpu,
		memory:     memory,
	}
	w := b.park(k)
	select {
	case run := <-w.inbox:
		if b.fresh {
			reply.Header().Set("Connection", "close")
		}
		answer(reply, run)
	case <-request.Context().Done():
		b.leave(k, w)
	}
}

// The fields of a run's message that are its key.
type message struct {
	Deployment struct {
		FriendlyID string `json:"friendlyId"`
	} `json:"deployment"`
	BackgroundWorker struct {
		Version string `json:"version"`
	} `json:"backgroundWorker"`
	Run struct {
		Machine struct {
			CPU    float64 `json:"cpu"`
			Memory float64 `json:"memory"`
		} `json:"machine"`
	} `json:"run"`
}

// Offers a run; its message is relayed byte for byte.
func (b *broker) dispatch(reply http.ResponseWriter, request *http.Request) {
	body, unread := io.ReadAll(request.Body)
	var offer struct {
		DequeuedMessage json.RawMessage `json:"dequeuedMessage"`
	}
	var run message
	if unread != nil || json.Unmarshal(body, &offer) != nil || json.Unmarshal(offer.DequeuedMessage, &run) != nil {
		http.Error(reply, "not a run", http.StatusBadRequest)
		return
	}
	k := key{
		deployment: run.Deployment.FriendlyID,
		version:    run.BackgroundWorker.Version,
		cpu:        run.Run.Machine.CPU,
		memory:     run.Run.Machine.Memory,
	}
	answer(reply, []byte(fmt.Sprintf(`{"didWarmStart":%t}`, b.match(k, offer.DequeuedMessage))))
}

func (b *broker) warmStart(reply http.ResponseWriter, request *http.Request) {
	switch request.Method {
	case http.MethodGet:
		b.hold(reply, request)
	case http.MethodPost:
		b.dispatch(reply, request)
	default:
		http.Error(reply, "GET waits, POST offers", http.StatusMethodNotAllowed)
	}
}

func answer(reply http.ResponseWriter, body []byte) {
	reply.Header().Set("Content-Type", "application/json")
	reply.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// A write error means that the client has left.
	_, _ = reply.Write(body)
}

func main() {
	port := "7070"
	if wanted, set := os.LookupEnv("PORT"); set {
		port = wanted
	}
	b := &broker{pools: pools{waiters: make(map[key][]*waiter)}, fresh: os.Getenv("FRESH") == "1"}
	routes := http.NewServeMux()
	routes.HandleFunc("/warm-start", b.warmStart)
	routes.HandleFunc("/connect", func(reply http.ResponseWriter, _ *http.Request) {
		answer(reply, []byte(`{"connectionTimeoutMs":50000,"keepaliveMs":300000}`))
	})
	routes.HandleFunc("/livez", func(reply http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(reply, "ok")
	})
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err == nil {
		fmt.Printf("listening on http://%s \n", listener.Addr())
		// Every timeout of http.Server is off unless it is set.
		err = http.Serve(listener, routes)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
