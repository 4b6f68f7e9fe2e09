//! The index: which picture fits a caption. Derived from the records; it can be thrown away at any time.
//!
//! A commit of tantivy holds, as one whole, the documents and the names of the batches they came from, so a batch is either in the
//! index with all its records or not at all, and what is missing is known. Everything here blocks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tantivy::collector::TopDocs;
use tantivy::directory::error::LockError;
use tantivy::directory::{Directory, INDEX_WRITER_LOCK, META_LOCK, MmapDirectory};
use tantivy::index::SegmentId;
use tantivy::query::{BooleanQuery, BoostQuery, DisjunctionMaxQuery, Query, TermQuery};
use tantivy::schema::{
    Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value,
};
use tantivy::{
    DocAddress, DocSet, Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TERMINATED,
    TantivyDocument, TantivyError, Term,
};

use super::Hit;
use super::batch::{Batch, BatchName};
use super::record::Record;
use super::words::{self, PIECES, QueryTerms, WORDS};

/// Part of the folder's name; raise it when the schema or the way text is cut changes, and old indexes are left behind.
pub(super) const INDEX_VERSION: &str = "v1";

/// The least that tantivy takes; more would only pay with very many pictures at once.
const WRITER_BYTES: usize = 16 << 20;

/// Tags were chosen to find the picture; captions also mention what stands beside it.
const TAG_BOOST: f32 = 1.2;
/// A pair of characters may straddle two words, and one character is part of many.
const PAIR_BOOST: f32 = 0.3;
const CHARACTER_BOOST: f32 = 0.6;
/// How much a word counts that is both in the caption and in the tags, beside the better of the two.
const BOTH_FIELDS: f32 = 0.2;

pub(super) struct SearchIndex {
    index: Index,
    reader: IndexReader,
    fields: Fields,
    folder: Option<PathBuf>,
    /// The segments that the reader shows, and how many of their documents are deleted; none before the first look. Another process may
    /// have made them. The number of a commit would not do: one that empties the index has the number of the one before.
    shown: Mutex<Option<Vec<(SegmentId, u32)>>>,
}

/// What went wrong.
#[derive(Debug)]
pub(super) enum IndexFault {
    /// Somebody else writes just now.
    Busy,
    Failed(String),
}

impl<E: Into<TantivyError>> From<E> for IndexFault {
    fn from(error: E) -> Self {
        match error.into() {
            TantivyError::LockFailure(LockError::LockBusy, _) => Self::Busy,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Kept in each commit.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Applied {
    batches: BTreeSet<String>,
}

#[derive(Clone, Copy)]
struct Fields {
    index: Field,
    batch: Field,
    record: Field,
    caption: Field,
    tags: Field,
    pieces: Field,
}

impl Fields {
    fn schema() -> (Schema, Self) {
        let mut schema = Schema::builder();
        let text = |tokenizer| {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(tokenizer)
                .set_index_option(IndexRecordOption::WithFreqs);
            TextOptions::default().set_indexing_options(indexing)
        };
        let fields = Self {
            index: schema.add_text_field("index", STRING),
            batch: schema.add_text_field("batch", STORED),
            record: schema.add_text_field("record", STORED),
            caption: schema.add_text_field("caption", text(WORDS)),
            tags: schema.add_text_field("tags", text(WORDS)),
            pieces: schema.add_text_field("pieces", text(PIECES)),
        };
        (schema.build(), fields)
    }
}

impl SearchIndex {
    /// Opens the index in this folder, or makes an empty one where there is none that can be used. Without a folder, in memory.
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self, IndexFault> {
        let (schema, fields) = Fields::schema();
        let index = match &folder {
            None => Index::create_in_ram(schema),
            Some(folder) => in_folder(folder, &schema)?,
        };
        index.tokenizers().register(WORDS, words::words());
        index.tokenizers().register(PIECES, words::pieces());
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?;
        Ok(Self {
            index,
            reader,
            fields,
            folder,
            shown: Mutex::default(),
        })
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The batches whose records are in the index.
    pub(super) fn applied(&self) -> Result<BTreeSet<String>, IndexFault> {
        // What cannot be read counts as nothing: to apply a batch again changes nothing.
        let payload = self.index.load_metas()?.payload.unwrap_or_default();
        Ok(serde_json::from_str::<Applied>(&payload)
            .unwrap_or_default()
            .batches)
    }

    /// Shows what another process committed.
    pub(super) fn show_latest(&self) -> Result<(), IndexFault> {
        let metas = self.index.load_metas()?;
        let latest: Vec<_> = metas
            .segments
            .iter()
            .map(|segment| (segment.id(), segment.num_deleted_docs()))
            .collect();
        let mut shown = self
            .shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if shown.as_ref() != Some(&latest) {
            self.reader.reload()?;
            *shown = Some(latest);
        }
        Ok(())
    }

    /// Empties the index: it speaks of batches that the store does not have.
    pub(super) fn clear(&self) -> Result<(), IndexFault> {
        let writer = self.writer()?;
        writer.delete_all_documents()?;
        Self::commit(writer, &Applied::default())?;
        self.show_latest()
    }

    /// Brings these batches in, those that are not there yet.
    pub(super) fn apply(&self, batches: &[Batch]) -> Result<(), IndexFault> {
        let writer = self.writer()?;
        // Whoever wrote before us has let go of the lock, so this is the last word.
        self.show_latest()?;
        let mut applied = Applied {
            batches: self.applied()?,
        };
        let mut latest: BTreeMap<&str, (&BatchName, &Record)> = BTreeMap::new();
        let mut is_new = false;
        for batch in batches {
            if !applied.batches.insert(batch.name.as_str().to_owned()) {
                continue;
            }
            is_new = true;
            for record in &batch.records {
                let place = latest.entry(&record.index).or_insert((&batch.name, record));
                if place.0 <= &batch.name {
                    *place = (&batch.name, record);
                }
            }
        }
        if !is_new {
            return Ok(());
        }
        for (index, (batch, record)) in latest {
            // Batches may come out of order when several import at once; the order of their names decides all the same.
            if self
                .batch_of(index)?
                .is_some_and(|known| known.as_str() > batch.as_str())
            {
                continue;
            }
            writer.delete_term(Term::from_field_text(self.fields.index, index));
            writer.add_document(self.document(batch, record)?)?;
        }
        Self::commit(writer, &applied)?;
        self.show_latest()
    }

    /// The best first; equally good ones in the order of their names.
    pub(super) fn search(
        &self,
        terms: &QueryTerms,
        exclude: &[String],
        limit: usize,
    ) -> Result<Vec<Hit>, IndexFault> {
        let Some(wanted) = self.query(terms) else {
            return Ok(Vec::new());
        };
        let searcher = self.reader.searcher();
        let excluded = self.addresses(&searcher, exclude)?;
        // A clause that forbids them would have every match scored; so only a few more than are wanted are.
        let best = TopDocs::with_limit(limit.max(1).saturating_add(excluded.len()));
        let found = searcher.search(&wanted, &best.order_by_score())?;
        let mut hits = Vec::with_capacity(limit.min(found.len()));
        let allowed = found
            .into_iter()
            .filter(|(_, address)| !excluded.contains(address));
        for (score, address) in allowed.take(limit) {
            hits.push(Hit {
                record: self.record_in(&searcher.doc(address)?)?,
                score,
            });
        }
        hits.sort_by(|one, other| {
            other
                .score
                .total_cmp(&one.score)
                .then_with(|| one.record.index.cmp(&other.record.index))
        });
        Ok(hits)
    }

    pub(super) fn record(&self, index: &str) -> Result<Option<Record>, IndexFault> {
        self.document_of(index)?
            .map(|document| self.record_in(&document))
            .transpose()
    }

    pub(super) fn count(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    /// Every record, in no order.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Record)) -> Result<(), IndexFault> {
        for segment in self.reader.searcher().segment_readers() {
            let documents = segment.get_store_reader(8)?;
            for document in documents.iter::<TantivyDocument>(segment.alive_bitset()) {
                visit(&self.record_in(&document?)?);
            }
        }
        Ok(())
    }

    fn writer(&self) -> Result<IndexWriter, IndexFault> {
        // One thread, so that the same records make the same index.
        Ok(self.index.writer_with_num_threads(1, WRITER_BYTES)?)
    }

    fn commit(mut writer: IndexWriter, applied: &Applied) -> Result<(), IndexFault> {
        let payload = serde_json::to_string(applied)
            .map_err(|error| IndexFault::Failed(error.to_string()))?;
        let mut prepared = writer.prepare_commit()?;
        prepared.set_payload(&payload);
        prepared.commit()?;
        // Otherwise a long import would leave a segment for each of its batches.
        writer.wait_merging_threads()?;
        Ok(())
    }

    fn document(&self, batch: &BatchName, record: &Record) -> Result<TantivyDocument, IndexFault> {
        let stored =
            serde_json::to_string(record).map_err(|error| IndexFault::Failed(error.to_string()))?;
        let mut document = TantivyDocument::default();
        document.add_text(self.fields.index, &record.index);
        document.add_text(self.fields.batch, batch.as_str());
        document.add_text(self.fields.record, stored);
        document.add_text(self.fields.caption, &record.details.caption);
        document.add_text(self.fields.pieces, &record.details.caption);
        for tag in &record.details.tags {
            document.add_text(self.fields.tags, tag);
            document.add_text(self.fields.pieces, tag);
        }
        Ok(document)
    }

    /// None when nothing in the caption can be looked for.
    fn query(&self, terms: &QueryTerms) -> Option<Box<dyn Query>> {
        let term = |field, text: &str| -> Box<dyn Query> {
            Box::new(TermQuery::new(
                Term::from_field_text(field, text),
                IndexRecordOption::WithFreqs,
            ))
        };
        let boosted = |query, boost| -> Box<dyn Query> { Box::new(BoostQuery::new(query, boost)) };
        let mut clauses: Vec<Box<dyn Query>> = Vec::new();
        for word in &terms.words {
            let fields = vec![
                term(self.fields.caption, word),
                boosted(term(self.fields.tags, word), TAG_BOOST),
            ];
            clauses.push(Box::new(DisjunctionMaxQuery::with_tie_breaker(
                fields,
                BOTH_FIELDS,
            )));
        }
        clauses.extend(
            terms
                .pairs
                .iter()
                .map(|pair| boosted(term(self.fields.pieces, pair), PAIR_BOOST)),
        );
        clauses.extend(
            terms
                .characters
                .iter()
                .map(|one| boosted(term(self.fields.pieces, one), CHARACTER_BOOST)),
        );
        (!clauses.is_empty()).then(|| -> Box<dyn Query> { Box::new(BooleanQuery::union(clauses)) })
    }

    fn addresses(
        &self,
        searcher: &Searcher,
        indexes: &[String],
    ) -> Result<HashSet<DocAddress>, IndexFault> {
        let mut addresses = HashSet::new();
        if indexes.is_empty() {
            return Ok(addresses);
        }
        for (segment, reader) in (0_u32..).zip(searcher.segment_readers()) {
            let known = reader.inverted_index(self.fields.index)?;
            for index in indexes {
                let term = Term::from_field_text(self.fields.index, index);
                let Some(mut postings) = known.read_postings(&term, IndexRecordOption::Basic)?
                else {
                    continue;
                };
                while postings.doc() != TERMINATED {
                    addresses.insert(DocAddress::new(segment, postings.doc()));
                    postings.advance();
                }
            }
        }
        Ok(addresses)
    }

    fn batch_of(&self, index: &str) -> Result<Option<String>, IndexFault> {
        let document = self.document_of(index)?;
        Ok(document
            .and_then(|document| Some(document.get_first(self.fields.batch)?.as_str()?.to_owned())))
    }

    fn document_of(&self, index: &str) -> Result<Option<TantivyDocument>, IndexFault> {
        let searcher = self.reader.searcher();
        let query = TermQuery::new(
            Term::from_field_text(self.fields.index, index),
            IndexRecordOption::Basic,
        );
        let found = searcher.search(&query, &TopDocs::with_limit(1).order_by_score())?;
        let document = found
            .first()
            .map(|(_, address)| searcher.doc(*address))
            .transpose()?;
        Ok(document)
    }

    fn record_in(&self, document: &TantivyDocument) -> Result<Record, IndexFault> {
        let stored = document
            .get_first(self.fields.record)
            .and_then(|value| value.as_str())
            .unwrap_or_default();
        serde_json::from_str(stored)
            .map_err(|error| IndexFault::Failed(format!("a stored record: {error}")))
    }
}

fn in_folder(folder: &Path, schema: &Schema) -> Result<Index, IndexFault> {
    let unusable = |error: std::io::Error| IndexFault::Failed(error.to_string());
    std::fs::create_dir_all(folder).map_err(unusable)?;
    // Two processes may open the library for the first time at once. The lock ends with its process, however that ends.
    let lock = File::create(folder.with_extension("lock")).map_err(unusable)?;
    lock.lock().map_err(unusable)?;
    if let Some(index) = sound(folder, schema) {
        return Ok(index);
    }
    if let Ok(directory) = MmapDirectory::open(folder)
        && let Err(LockError::LockBusy) = directory.acquire_lock(&INDEX_WRITER_LOCK)
    {
        return Err(IndexFault::Busy);
    }
    // Ours alone, by its name, and made again from the records.
    std::fs::remove_dir_all(folder).map_err(unusable)?;
    std::fs::create_dir_all(folder).map_err(unusable)?;
    Ok(Index::create_in_dir(folder, schema.clone())?)
}

/// The index in the folder when every file of it is what was written.
fn sound(folder: &Path, schema: &Schema) -> Option<Index> {
    let directory = MmapDirectory::open(folder).ok()?;
    // While it is held nobody removes the files that a later commit replaces.
    let _files_stay = directory.acquire_lock(&META_LOCK).ok()?;
    if !Index::exists(&directory).ok()? {
        return None;
    }
    let index = Index::open(directory).ok()?;
    let is_sound = index.schema() == *schema
        && index
            .validate_checksum()
            .is_ok_and(|damaged| damaged.is_empty());
    is_sound.then_some(index)
}
