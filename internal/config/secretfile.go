package config

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// mostSecret is how much a file of one secret may hold.
const mostSecret = 64 << 10

// handedOver is the mode of a secret that belongs to root and is read through
// the process's group, or through an access list, which shows as the group's
// rights. Nobody may write it.
const handedOver = 0o440

// readSecret reads a secret from its file, without the line's end. A file that
// others than its owner may read is worth a warning, but for one that Kubernetes
// or systemd hands over. Neither it nor the error tells what the file holds.
func readSecret(source, key, path string) (text, warning string, err error) {
	content, mode, broken := readFile(path, mostSecret)
	if broken == "" {
		if text = strings.TrimRight(string(content), "\r\n"); text == "" {
			broken = "must name a file that holds a secret, this one is empty"
		}
	}
	if broken != "" {
		return "", "", &Error{Source: source, Key: key, Rule: broken, Value: path}
	}
	if mode.IsRegular() && mode.Perm()&0o077 != 0 && mode.Perm() != handedOver {
		warning = fmt.Sprintf("%s: %s: %s can be read by others than its owner (mode %04o), chmod 600 it", source, key, path, mode.Perm())
	}
	return text, warning, nil
}

// readFile reads a file of limited size. It returns the rule that the file
// breaks, or "".
func readFile(path string, most int64) (content []byte, mode os.FileMode, broken string) {
	// A pipe to which nobody writes is an empty file, and not one to wait for: no
	// signal ends that.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, whyUnreadable(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, whyUnreadable(err)
	}
	if info.IsDir() {
		return nil, 0, "must name a file, this is a folder"
	}
	content, err = readMost(f, most)
	if err != nil {
		return nil, 0, whyUnreadable(err)
	}
	if int64(len(content)) > most {
		return nil, 0, fmt.Sprintf("must name a file of at most %s", Bytes(most))
	}
	return content, info.Mode(), ""
}
