//! Articles leave as an archive, a page, JSON and Markdown; each is opened and held against the article, and the page is drawn by a
//! browser where there is one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use inkstone_proto::v1::{
    Article, ChangeArticleRequest, ComposeRequest, ExportFormat, Illustration, PictureSource,
    ProvidedPicture, SetText, change_article_request::Change,
};
use inkstone_world::{Lot, draw_picture, draw_scene};
use serde_json::Value;

use super::{
    client::{
        Client, article, compose_events, connect, export, follow_and_provide, get_picture, greedy,
        provided, request,
    },
    pictures::{drawn_library, import},
    scripted::{Asked, Model, Reply, Scripted, Step},
    zip,
};
use crate::cluster_fixture::{Served, small_model};

const TITLE: &str = "# A <b>title</b> & more";
const PARAGRAPHS: [&str; 3] = [
    "<script>document.title = \"taken\"</script> is *plain* text, [so](it) ![is]",
    "水墨画 </p></article>",
    "1. `An` \"ending\" 'with' <img src=x onerror=alert(1)>",
];

fn drawn(number: u64) -> Vec<u8> {
    let mut scene = draw_scene(&mut Lot::new(number, "exported pictures", 0));
    // One of each kind of file.
    scene.look.jpeg_quality = (number % 2 == 1).then_some(90);
    draw_picture(&scene)
}

fn found(number: u64) -> ProvidedPicture {
    ProvidedPicture {
        source: "https://pictures.example/a?b=c&d=\"e\"".to_owned(),
        author: "Lin <lin@pictures.example>".to_owned(),
        licence: "CC BY 4.0".to_owned(),
        ..provided(drawn(number), "")
    }
}

/// An article whose texts are anything but plain.
async fn hostile() -> (Scripted, Client, String) {
    let script = |asked: &Asked| -> Reply {
        match asked.step() {
            Step::Article => format!("{TITLE}\n{}", PARAGRAPHS.join("\n"))
                .as_str()
                .into(),
            Step::Places => "<Seg1>，<Seg3>".into(),
            Step::Caption(_) => "a <i>caption</i> & 标题\"".into(),
            Step::Choice => "B".into(),
            Step::Edit => panic!("nothing is edited"),
        }
    };
    let scripted = Scripted::start(Model::small(), &[], script).await;
    let mut client = connect(&scripted.address).await;
    let request = ComposeRequest {
        picture_source: PictureSource::Client.into(),
        ..request("Write <b>boldly</b>.")
    };
    let events = follow_and_provide(&mut client, request, |place, _| {
        let first = u64::from(place) * 2;
        vec![found(first), found(first + 1)]
    })
    .await;
    let id = events[0].article_id.clone();
    (scripted, client, id)
}

/// The pictures that are shown, with their bytes, in reading order.
async fn shown(client: &mut Client, article: &Article) -> Vec<(Illustration, Vec<u8>)> {
    let mut all = vec![];
    for segment in &article.segments {
        let Some(illustration) = segment.illustration.clone() else {
            continue;
        };
        let picture = &illustration.candidates[illustration.chosen as usize];
        let (media_type, data) = get_picture(client, &article.id, &picture.id)
            .await
            .expect("it is kept");
        assert_eq!(media_type, picture.media_type);
        all.push((illustration, data));
    }
    all
}

/// The files that Markdown names for pictures, in order.
fn named(markdown: &str) -> Vec<&str> {
    let images = markdown.lines().filter(|line| line.starts_with("!["));
    let file = images.map(|line| {
        let (_, address) = line.rsplit_once("](").expect("an address");
        address.strip_suffix(')').expect("it ends")
    });
    file.collect()
}

/// Checks every format of an article against the article.
async fn check(client: &mut Client, id: &str) -> Vec<u8> {
    let now = article(client, id).await;
    let shown = shown(client, &now).await;

    let (media_type, name, markdown) = export(client, id, ExportFormat::Markdown).await;
    assert!(media_type.starts_with("text/markdown"), "{media_type}");
    assert!(name.ends_with(".md"), "{name}");
    let markdown = String::from_utf8(markdown).expect("UTF-8");
    let files = named(&markdown);
    assert_eq!(files.len(), shown.len(), "{markdown}");

    let (media_type, name, json) = export(client, id, ExportFormat::Json).await;
    assert_eq!(media_type, "application/json");
    assert!(name.ends_with(".json"), "{name}");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["id"], *id);
    assert_eq!(json["revision"], now.revision);
    assert_eq!(json["request"]["instruction"], *now.instruction);
    let segments = json["segments"].as_array().expect("a list");
    assert_eq!(segments.len(), now.segments.len());
    let mut pictures = vec![];
    for (told, segment) in segments.iter().zip(&now.segments) {
        assert_eq!(told["text"], *segment.text);
        let illustration = segment.illustration.as_ref();
        assert_eq!(told["picture"].is_object(), illustration.is_some());
        if let Some(illustration) = illustration {
            let picture = &illustration.candidates[illustration.chosen as usize];
            let told = &told["picture"];
            assert_eq!(told["caption"], *illustration.caption);
            assert_eq!(told["media_type"], *picture.media_type);
            for (field, value) in [
                ("author", &picture.author),
                ("source", &picture.source),
                ("licence", &picture.licence),
            ] {
                assert_eq!(told[field].as_str().unwrap_or_default(), value);
            }
            pictures.push(told["file"].as_str().expect("a name").to_owned());
        }
    }
    assert_eq!(pictures, files, "Markdown and JSON name the same files");

    let (media_type, name, archive) = export(client, id, ExportFormat::Zip).await;
    assert_eq!(media_type, "application/zip");
    assert!(name.ends_with(".zip"), "{name}");
    let archive: BTreeMap<String, Vec<u8>> = zip::read(&archive);
    for (name, (_, data)) in files.iter().zip(&shown) {
        assert_eq!(&archive[*name], data, "{name}");
    }
    assert_eq!(archive["article.md"], markdown.as_bytes());
    let packed: Value = serde_json::from_slice(&archive["article.json"]).expect("JSON");
    assert_eq!(packed, json);
    let mut names: Vec<&str> = archive.keys().map(String::as_str).collect();
    names.retain(|name| !files.contains(name) && !name.starts_with("article."));
    assert!(names.is_empty(), "nothing else is in it: {names:?}");

    let (media_type, name, page) = export(client, id, ExportFormat::Html).await;
    assert!(media_type.starts_with("text/html"), "{media_type}");
    assert!(name.ends_with(".html"), "{name}");
    let text = String::from_utf8(page.clone()).expect("UTF-8");
    let within: Vec<(String, Vec<u8>)> = text.split("src=\"").skip(1).map(data_address).collect();
    assert_eq!(within.len(), shown.len());
    for ((media_type, data), (illustration, wanted)) in within.iter().zip(&shown) {
        let picture = &illustration.candidates[illustration.chosen as usize];
        assert_eq!((media_type, data), (&picture.media_type, wanted));
    }
    for elsewhere in ["<script", "<link", "@import", "src=\"http", "url("] {
        assert!(
            !text.contains(elsewhere),
            "it needs nothing else: {elsewhere}"
        );
    }
    page
}

/// What `data:TYPE;base64,CONTENT"...` holds.
fn data_address(text: &str) -> (String, Vec<u8>) {
    let (address, _) = text.split_once('"').expect("it ends");
    let address = address.strip_prefix("data:").expect("it is in the page");
    let (media_type, content) = address.split_once(";base64,").expect("base64");
    (media_type.to_owned(), from_base64(content))
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |c: u8| -> u32 {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("{c} is no digit of base64"),
        };
        value.into()
    };
    let mut bytes = Vec::new();
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    assert!(rest.is_empty(), "it is whole");
    for group in groups {
        let digits: Vec<u8> = group.iter().copied().filter(|c| *c != b'=').collect();
        let bits = digits.iter().fold(0, |bits, c| (bits << 6) | value(*c));
        let bits = bits << (6 * (4 - digits.len()));
        bytes.extend(&bits.to_be_bytes()[1..digits.len()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_exports_open_and_no_text_in_them_is_markup() {
    let (_scripted, mut client, id) = hostile().await;
    let page = check(&mut client, &id).await;
    let page = String::from_utf8(page).expect("UTF-8");
    for wanted in [
        "<h1># A &lt;b&gt;title&lt;/b&gt; &amp; more</h1>",
        "&lt;script&gt;document.title",
        "水墨画 &lt;/p&gt;&lt;/article&gt;",
        "a &lt;i&gt;caption&lt;/i&gt; &amp; 标题",
        "CC BY 4.0",
        "Lin &lt;lin@pictures.example&gt;",
    ] {
        assert!(page.contains(wanted), "{wanted} is not in\n{page}");
    }
    let (_, _, markdown) = export(&mut client, &id, ExportFormat::Markdown).await;
    let markdown = String::from_utf8(markdown).expect("UTF-8");
    for wanted in [
        "# \\# A \\<b\\>title\\</b\\> \\& more\n",
        "is \\*plain\\* text, \\[so\\](it) \\!\\[is\\]",
        "1\\. \\`An\\`",
        "Lin \\<lin@pictures.example\\>",
        "CC BY 4.0",
    ] {
        assert!(markdown.contains(wanted), "{wanted} is not in\n{markdown}");
    }
    // What changed leaves changed.
    let now = article(&mut client, &id).await;
    let change = ChangeArticleRequest {
        article_id: id.clone(),
        revision: now.revision,
        change: Some(Change::SetText(SetText {
            segment: now.segments[2].id,
            text: "another paragraph".to_owned(),
        })),
    };
    client.change_article(change).await.expect("it fits");
    let page = check(&mut client, &id).await;
    assert!(
        String::from_utf8(page)
            .expect("UTF-8")
            .contains("another paragraph")
    );
}

/// A browser that draws pages to files: `$INKSTONE_CHROMIUM`, or one on the path.
fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("INKSTONE_CHROMIUM").map(PathBuf::from);
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "headless_shell",
    ];
    named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let files = names
            .iter()
            .flat_map(|name| folders.iter().map(move |dir| dir.join(name)));
        files.into_iter().find(|file| file.is_file())
    })
}

/// Has the page drawn, and gives its picture and its title.
fn draw(browser: &Path, page: &[u8]) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("article.html");
    fs::write(&file, page).expect("it is written");
    let screenshot = folder.path().join("article.png");
    let address = format!("file://{}", file.display());
    let run = |arguments: &[&str]| -> Vec<u8> {
        let profile = format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        );
        let out = folder.path().join("out");
        let mut child = Command::new(browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--window-size=800,1200",
                &profile,
            ])
            .args(arguments)
            .arg(&address)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        let started = Instant::now();
        while child.try_wait().expect("it is our child").is_none() {
            if started.elapsed() > Duration::from_secs(120) {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the browser does not end");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        fs::read(&out).expect("it is there")
    };
    run(&[&format!("--screenshot={}", screenshot.display())]);
    let drawn = fs::read(&screenshot).expect("the browser draws the page");
    let dom = String::from_utf8(run(&["--dump-dom"])).expect("UTF-8");
    // To be looked at.
    if let Some(kept) = std::env::var_os("INKSTONE_KEEP_SCREENSHOTS") {
        let name = format!("article-{}.png", page.len());
        fs::write(PathBuf::from(kept).join(name), &drawn).expect("it is written");
    }
    let (_, rest) = dom.split_once("<title>").expect("a title");
    let (title, _) = rest.split_once("</title>").expect("it ends");
    (drawn, title.to_owned())
}

/// Width, height and the number of different colours of a PNG.
fn look_at(picture: &[u8]) -> (u32, u32, usize) {
    let picture = image::load_from_memory(picture)
        .expect("a picture")
        .to_rgb8();
    let mut colours: Vec<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
    colours.sort_unstable();
    colours.dedup();
    (picture.width(), picture.height(), colours.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn composition_pages_are_drawn_by_a_browser() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no Chromium on the path, and INKSTONE_CHROMIUM names none");
        return;
    };
    let (_scripted, mut client, id) = hostile().await;
    let (_, _, page) = export(&mut client, &id, ExportFormat::Html).await;
    let (drawn, title) = tokio::task::block_in_place(|| draw(&browser, &page));
    assert_eq!(
        title, "# A &lt;b&gt;title&lt;/b&gt; &amp; more",
        "no script ran"
    );
    let (width, height, colours) = look_at(&drawn);
    assert_eq!((width, height), (800, 1200));
    assert!(
        colours > 500,
        "pictures and text have more than {colours} colours"
    );
}

/// An article of the small model, from its own library.
#[tokio::test(flavor = "multi_thread")]
async fn composition_exports_of_the_small_models_articles_open() {
    let library = import(&drawn_library("exports"));
    let served = Served::start(small_model(), &["--library", library.location()]);
    let mut client = connect(&served.address).await;
    for instruction in [
        "Write an article about the museum from this outline:\n1. a green square\n2. a black star",
        "写一篇关于大桥的文章，共三段。",
    ] {
        let events = compose_events(&mut client, greedy(instruction)).await;
        let id = &events[0].article_id;
        let page = check(&mut client, id).await;
        let text = String::from_utf8(page.clone()).expect("UTF-8");
        assert!(
            text.contains("<figure>") && text.contains("CC BY 4.0"),
            "{text}"
        );
        if let Some(browser) = browser() {
            let (drawn, _) = tokio::task::block_in_place(|| draw(&browser, &page));
            let (_, _, colours) = look_at(&drawn);
            assert!(
                colours > 500,
                "pictures and text have more than {colours} colours"
            );
        } else {
            eprintln!("skipped: no Chromium on the path, and INKSTONE_CHROMIUM names none");
        }
    }
}
