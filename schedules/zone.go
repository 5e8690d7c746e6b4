package schedules

import (
	"archive/zip"
	"bytes"
	_ "embed" // the zones
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"pelton/engine/wire"
)

// zoneinfo is the archive that Go ships as lib/time/zoneinfo.zip. Package
// time/tzdata has the same, but is asked only where the machine has no zones of
// its own; then beats on two machines could disagree and nobody could tell.
//
//go:embed zoneinfo.zip
var zoneinfo []byte

// zoneVersion is the release of the time zone database in zoneinfo.
const zoneVersion = "2025c"

// ZoneVersion is the release of the time zone database that this program goes
// by, as 2025c. A later release is a greater string.
func ZoneVersion() string { return zoneVersion }

// zoneFiles are the files of the archive by the names of their zones.
var zoneFiles = sync.OnceValues(func() (map[string]*zip.File, error) {
	r, err := zip.NewReader(bytes.NewReader(zoneinfo), int64(len(zoneinfo)))
	if err != nil {
		return nil, fmt.Errorf("zoneinfo.zip: %w", err)
	}
	files := make(map[string]*zip.File, len(r.File))
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			files[f.Name] = f
		}
	}
	return files, nil
})

// zones are the locations read so far: entries of one zone share it.
var zones sync.Map // name → *time.Location

// loadZone finds a zone by its name; no name is UTC.
func loadZone(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if known, ok := zones.Load(name); ok {
		return known.(*time.Location), nil
	}
	files, err := zoneFiles()
	if err != nil {
		return nil, err
	}
	file, ok := files[name]
	if !ok {
		return nil, unknownZone(name, files)
	}
	r, err := file.Open()
	if err != nil {
		return nil, fmt.Errorf("zoneinfo.zip: %s: %w", name, err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("zoneinfo.zip: %s: %w", name, err)
	}
	zone, err := time.LoadLocationFromTZData(name, data)
	if err != nil {
		return nil, fmt.Errorf("zoneinfo.zip: %s: %w", name, err)
	}
	zones.Store(name, zone)
	return zone, nil
}

func unknownZone(name string, files map[string]*zip.File) error {
	const rule = "must be a zone of the IANA database, as Europe/Berlin"
	for known := range files {
		if strings.EqualFold(known, name) {
			return &wire.NameError{Field: "zone", Value: name, Rule: rule + "; did you mean " + known + "?"}
		}
	}
	return &wire.NameError{Field: "zone", Value: name, Rule: rule}
}
