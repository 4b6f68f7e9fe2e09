//! An import in a process of its own, killed again and again.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const FOLDER: &str = "INKSTONE_TEST_IMPORT";
const LIBRARY: &str = "INKSTONE_TEST_LIBRARY";
const PICTURES: u32 = 60;

/// Takes its time, so that a kill comes between.
struct Slow;

#[async_trait]
impl Captioner for Slow {
    async fn caption(&self, picture: &Candidate) -> Result<String, CaptionError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(format!("caption of {}", picture.path.display()))
    }
}

/// What is killed. By itself it does nothing.
#[tokio::test]
async fn victim() {
    let (Some(folder), Some(place)) = (std::env::var_os(FOLDER), std::env::var_os(LIBRARY)) else {
        return;
    };
    let library = at(Path::new(&place)).await;
    let settings = ImportSettings {
        batch: 4,
        captions_at_once: 2,
        ..ImportSettings::default()
    };
    let importer = Importer::new(library, Some(std::sync::Arc::new(Slow)), settings);
    importer
        .import(Path::new(&folder), |_| {})
        .await
        .expect("an import");
}

#[tokio::test]
async fn killed_again_and_again_an_import_comes_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..PICTURES {
        std::fs::write(folder.path().join(format!("{number}.png")), picture(number))
            .expect("written");
    }
    let place = tempfile::tempdir().expect("a folder");
    let mut kills = 0;
    for attempt in 1.. {
        assert!(attempt < 40, "an import that is killed gets nowhere");
        let mut victim = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "library::tests::killed::victim"])
            .env(FOLDER, folder.path())
            .env(LIBRARY, place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process");
        // Always a little later, or a slow machine would never come to anything.
        tokio::time::sleep(Duration::from_millis(60 + 120 * attempt)).await;
        if let Some(status) = victim.try_wait().expect("a process") {
            assert!(status.success(), "{status}");
            break;
        }
        victim.kill().expect("killed");
        victim.wait().expect("ended");
        kills += 1;
    }
    assert!(kills > 0, "nothing was killed");
    let library = at(place.path()).await;
    let records = contents(&library).await;
    assert_eq!(records.len(), PICTURES as usize);
    for (name, record) in &records {
        assert!(record.details.caption.starts_with("caption of "));
        assert!(library.picture(name).await.expect("an answer").is_some());
    }
    assert!(
        library
            .summary()
            .await
            .expect("a summary")
            .damaged
            .is_empty()
    );
    assert_eq!(
        import(&library, folder.path()).await.known,
        u64::from(PICTURES)
    );
}
