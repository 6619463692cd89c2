package proxy

import "nearside/proxy/admin"

// ErrNothingToReload is what a reload returns when there is no file that could be read again.
var ErrNothingToReload = admin.ErrNothingToReload

// CheckToken says what is wrong with Config.AdminToken, without telling it.
func CheckToken(token string) error { return admin.CheckToken(token) }

// ReadToken reads what Config.AdminTokenFile names.
func ReadToken(file string) (string, error) { return admin.ReadToken(file) }
