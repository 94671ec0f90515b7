//! `berth rmi`

use crate::ExitCode;

use crate::{CommandError, Context, fetch, output};

/// Remove images from the store
///
/// Takes the name away, and with an image's last name what no other image shares. What running containers use stays
/// until they end.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Names or digests
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove the name even when containers use the image
    #[arg(short, long)]
    pub force: bool,
}

/// Removes them one after the other.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    for image in &args.images {
        let name = fetch::store_name(&store, image)?;
        let removed = store.remove(&name, args.force)?;
        if let Some(digest) = removed.image {
            context.explain(|| {
                format!("image {} and {} layers went with its last name", digest.short(), removed.layers.len())
            });
        }
        output::lines(removed.names)?;
    }
    Ok(ExitCode::SUCCESS)
}
