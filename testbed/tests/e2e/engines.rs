//! What people do with containers, shown on every engine that has berth as its runtime: the same list for each.

use testbed::engine::Engine;

mod life;
mod world;

pub use life::*;
pub use world::*;

/// Shows a behaviour on an engine, and that nothing of it stays.
#[track_caller]
pub fn shown_on(engine: impl Engine, behaviour: impl FnOnce(&dyn Engine)) {
    behaviour(&engine);
    (&engine as &dyn Engine).nothing_is_left();
}

/// Makes the chapter of an engine from the behaviours of this file and its own.
macro_rules! engine_chapter {
    ($chapter:literal, $needs:tt, $start:expr; $($own:ident),+ $(,)?) => {
        $crate::engines::with_shared!($chapter, $needs, $start; $($own),+);
    };
}

/// Adds the list of what is shared.
macro_rules! with_shared {
    ($chapter:literal, $needs:tt, $start:expr; $($own:ident),+) => {
        $crate::engines::both!($chapter, $needs, $start;
            output_and_exit_codes_come_back,
            a_command_that_cannot_run_has_its_own_exit_code,
            a_terminal_has_its_size_and_its_keys,
            a_command_runs_in_the_background,
            commands_are_executed_in_a_running_container,
            stop_gives_the_program_time_for_its_own_end,
            stop_and_kill_end_a_program_that_resists,
            signals_reach_the_program,
            a_frozen_container_stands_still,
            an_init_reaps_and_passes_signals_on,
            the_user_and_the_groups_are_those_asked_for,
            folders_and_files_of_the_host_are_there,
            a_read_only_root_is_written_nowhere,
            capabilities_are_dropped_and_added,
            filters_and_no_new_privileges_hold,
            limits_of_the_process_are_set,
            limits_of_control_groups_hold,
            what_is_written_to_the_input_arrives,
            ten_megabytes_come_through_unchanged,
            many_containers_run_at_once,
            the_engine_sees_what_runs,
            containers_share_namespaces,
            names_directories_and_variables_are_set,
            devices_and_kernel_parameters_are_set,
            a_container_is_stopped_started_and_attached_to,
            files_are_copied_in_and_out,
            an_image_is_built_by_run_steps,
            without_a_pid_namespace_all_processes_end;
            $($own),+);
    };
}

/// One function for each behaviour on this engine, and the list of all.
macro_rules! both {
    ($chapter:literal, $needs:tt, $start:expr; $($shared:ident),+; $($own:ident),+) => {
        $(fn $shared() {
            $crate::engines::shown_on($start, $crate::engines::$shared);
        })+
        testbed::chapter!($chapter, $needs: $($shared),+, $($own),+);
    };
}

pub(crate) use both;
pub(crate) use engine_chapter;
pub(crate) use with_shared;
