package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"kvfs/config"
	"kvfs/image"
	"kvfs/tree"
)

// document is the text of settings with everything that was read beside it: a
// process that takes over goes by that, whatever the files hold by now. They are
// read again when somebody asks for it.
type document struct {
	Text []byte `json:"text,omitempty"`
	CA   []byte `json:"ca,omitempty"` // content of the CA file
	// Passwords are those of password files, by file.
	Passwords map[string]string `json:"passwords,omitempty"`
	Since     time.Time         `json:"since"` // when it came into force
	// Stores are where its stores are.
	Stores places `json:"stores,omitempty"`
}

// readBeside reads what the settings refer to.
func (doc *document) readBeside(cfg *config.Config) (err error) {
	if doc.CA, err = readCA(cfg); err != nil {
		return err
	}
	all, err := readPasswords(cfg)
	if err != nil {
		return err
	}
	doc.Passwords = map[string]string{}
	for file, password := range all {
		doc.Passwords[file] = string(password)
	}
	return nil
}

func (doc document) passwords() passwords {
	all := passwords{}
	for file, password := range doc.Passwords {
		all[file] = tree.Password(password)
	}
	return all
}

// readCA is the content of the CA file: another file of the same name is another
// way to the vaults.
func readCA(cfg *config.Config) ([]byte, error) {
	if cfg.Transport.CAFile == "" {
		return nil, nil
	}
	ca, err := os.ReadFile(cfg.Transport.CAFile)
	if err != nil {
		return nil, fail(exitSettings, "settings", "check kvfs.transport.caFile", "reading the CA file: %v", err)
	}
	return ca, nil
}

// keyDocuments is the record of the image that has the documents, the oldest first.
const keyDocuments = "d"

// keyLog is the record that has how to log.
const keyLog = "l"

func keepDocuments(kept *image.Image, w wanted) error {
	b, err := json.Marshal(append(w.former[:len(w.former):len(w.former)], w.doc))
	if err != nil {
		return fmt.Errorf("keeping the settings: %w", err)
	}
	log, err := json.Marshal(w.cfg.Log)
	if err != nil {
		return fmt.Errorf("keeping the settings: %w", err)
	}
	changes := []image.Change{{Key: keyDocuments, Value: b}, {Key: keyLog, Value: log}}
	if err := kept.Enter(changes...); err != nil {
		return fmt.Errorf("keeping the settings: %w", err)
	}
	return nil
}

// keptLog is how a predecessor logged, for what is said before there is time to read its settings.
func keptLog(kept *image.Image) (l config.Log) {
	if b, ok := kept.Get(keyLog); ok {
		_ = json.Unmarshal(b, &l) // of another format: as without settings
	}
	return l
}

// keptDocuments are what a predecessor went by; nil if there is none.
func keptDocuments(kept *image.Image) (docs []document, err error) {
	b, ok := kept.Get(keyDocuments)
	if !ok {
		return nil, nil
	}
	if err := json.Unmarshal(b, &docs); err != nil {
		return nil, fmt.Errorf("reading the settings that were kept: %w", err)
	}
	return docs, nil
}

// recall is what a predecessor wanted: the documents, one after the other. vault is
// left to the caller.
func (o origin) recall(docs []document, served []string) (w wanted, err error) {
	for i, doc := range docs {
		cfg, stores, problems, err := o.parse(doc.Text, finder{served: served, known: doc.Stores, keep: true})
		if err != nil {
			return wanted{}, err
		}
		if cfg == nil {
			return wanted{}, fail(exitSettings, "settings", problems.Errors()[0].Hint, "the settings that were in force are not valid any more: %s", problems.Errors()[0].Fact)
		}
		doc.Stores = stores
		if i == 0 {
			w = wanted{cfg: cfg, doc: doc, passwords: doc.passwords()}
			continue
		}
		w = w.with(doc, cfg)
	}
	return w.next(w.cfg, time.Now()), nil
}
