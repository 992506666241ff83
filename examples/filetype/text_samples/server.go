package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"sync"
	"time"
)

type reading struct {
	Station int       `json:"station"`
	At      time.Time `json:"at"`
	LevelM  float64   `json:"level_m"`
}

type store struct {
	mu       sync.RWMutex
	readings map[int][]reading
}

func (s *store) latest(ctx context.Context, station int) (reading, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := s.readings[station]
	if len(all) == 0 {
		return reading{}, errors.New("no readings")
	}
	return all[len(all)-1], ctx.Err()
}

func main() {
	s := &store{readings: make(map[int][]reading)}
	http.HandleFunc("/latest", func(w http.ResponseWriter, r *http.Request) {
		one, err := s.latest(r.Context(), 11)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(one)
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
