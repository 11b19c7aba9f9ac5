package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The settings document, in the dialect of the extension's version 3 with
// objects for certificates; "kvfs" holds what the extension does not know.
type (
	settingsDocument struct {
		Secrets struct {
			PollingInterval string                `json:"pollingIntervalInS"`
			Certificates    []observedCertificate `json:"observedCertificates"`
		} `json:"secretsManagementSettings"`
		Authentication struct {
			Endpoint string `json:"msiEndpoint"`
		} `json:"authenticationSettings"`
		Kvfs struct {
			MinPollingInterval int `json:"minPollingIntervalInS"`
			Transport          struct {
				CAFile  string            `json:"caFile"`
				Connect map[string]string `json:"connect"`
			} `json:"transport"`
		} `json:"kvfs"`
	}
	observedCertificate struct {
		URL string `json:"url"`
	}
)

// writeSettings brings settings.json up to date with the certificates there are.
func (e *Emulator) writeSettings() error {
	e.settings.Lock()
	defer e.settings.Unlock()
	var d settingsDocument
	d.Secrets.PollingInterval = "1"
	d.Secrets.Certificates = e.observedCertificates()
	d.Authentication.Endpoint = e.Endpoints().Identity
	d.Kvfs.MinPollingInterval = 1
	d.Kvfs.Transport.CAFile = e.caFile()
	d.Kvfs.Transport.Connect = map[string]string{}
	for _, suffix := range e.suffixes() {
		d.Kvfs.Transport.Connect["*."+suffix+":443"] = e.Addr()
	}
	for _, host := range e.loginNames() {
		d.Kvfs.Transport.Connect[host+":443"] = e.Addr()
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the settings: %w", err)
	}
	return replaceFile(e.settingsFile(), append(text, '\n'))
}

// observedCertificates leaves out secrets that are no certificates: the
// document is to mount everything it names.
func (e *Emulator) observedCertificates() []observedCertificate {
	list := []observedCertificate{}
	for _, item := range e.Inventory() {
		if item.Managed {
			list = append(list, observedCertificate{URL: "https://" + e.hostOf(item.Vault) + "/secrets/" + item.Name})
		}
	}
	return list
}

// replaceFile writes path so that a reader sees the old content or the new one.
// What it writes is public.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
