package emulator

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

type faultJSON struct {
	Vault      string    `json:"vault,omitempty"`
	Name       string    `json:"name,omitempty"`
	Kind       FaultKind `json:"kind"`
	RetryAfter seconds   `json:"retryAfter,omitempty"`
	Delay      seconds   `json:"delay,omitempty"`
	Count      int       `json:"count,omitempty"`
}

// MarshalJSON writes durations as strings.
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(faultJSON{f.Vault, f.Name, f.Kind, seconds(f.RetryAfter), seconds(f.Delay), f.Count})
}

// UnmarshalJSON reads durations as strings or as numbers of seconds, and
// refuses fields it does not know.
func (f *Fault) UnmarshalJSON(text []byte) error {
	var j faultJSON
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&j); err != nil {
		return err
	}
	*f = Fault{j.Vault, j.Name, j.Kind, time.Duration(j.RetryAfter), time.Duration(j.Delay), j.Count}
	return nil
}

// seconds is a duration with the JSON form of Fault.
type seconds time.Duration

func (s seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).String()) }

func (s *seconds) UnmarshalJSON(text []byte) error {
	var number float64
	if json.Unmarshal(text, &number) == nil {
		*s = seconds(number * float64(time.Second))
		return nil
	}
	var word string
	if err := json.Unmarshal(text, &word); err != nil {
		return fmt.Errorf("duration %s: want a number of seconds or a string such as \"1.5s\"", text)
	}
	d, err := time.ParseDuration(word)
	*s = seconds(d)
	return err
}
