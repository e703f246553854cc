// Package bootmenu decides which version a client boots and renders what the client needs for it: the iPXE script, and the small
// initrd with the boot configuration. It is pure: no socket, no file, no clock; rooms that serve it (bootfiles) bring those.
//
// # What a client boots
//
// The first of these that is set names an image and a channel or a number: the client's own entry, its subnet's, the site's. The
// version must be on this satellite's disk and verified. If it is not (a newer one is still on its way), the client boots the
// version that the channel served last, else the newest verified one of the same image; the script says so on the screen. It
// never boots another image instead: then the script says that nothing is ready, how far the transfer is, and asks again.
//
// # Script
//
// Scripts use commands that iPXE 1.0.0+git-20190125 has (Debian 12). A satellite that fails to deliver one file is left for the
// next of the site, which continues with that file; when the last one has failed, the script tells what to do, waits,
// and asks for a new script. A class of PCs that was switched on before its server recovers by itself. A satellite that does not
// answer at all costs 16 s: so long iPXE tries to connect.
package bootmenu
