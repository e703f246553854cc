package applet

import "strings"

// ltspFunctions are the functions of LTSP's own scripts that the agent does in another way or has no use for: omitting them changes nothing.
var ltspFunctions = func() map[string]bool {
	known := map[string]bool{}
	for name := range strings.FieldsSeq(`
		main at_exit busybox_fallbacks debug debug_shell die echo exit_command is_command locate_applet_scripts re rs rsr run_main_functions run_parts_list rw rwr
		source_scripts usage version warn ltsp_cmdline
		echo_values echo_vars eval_ini eval_percent ini2sh install_template kernel_vars network_vars omit_functions run_parameters textif textifb
		img_path_to_name list_img_names add_path_to_src modprobe_overlay mount_img_src mount_type mount_file omount vmount
		initrd_bottom_cmdline install_ltsp
		init_cmdline mount_devices ro_root_main fetch_ltsp_img store_networking exclude_kept_services
		service_cmdline service_main disable_flow_control enable_nat
		remoteapps_cmdline remoteapps_main remoteapps_authorized_keys remoteapps_register remoteapps_run session_cmdline session_main
		debug_shell patch_nbd patch_casper patch_dhclient install_ltsp_hooks
	`) {
		known[name] = true
	}
	return known
}()
