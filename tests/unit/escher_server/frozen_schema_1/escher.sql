BEGIN TRANSACTION;
CREATE TABLE announcements (
    tenant_id TEXT NOT NULL, playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    files_digest TEXT NOT NULL, files TEXT NOT NULL, serial INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, playbook_id, version, files_digest)
) WITHOUT ROWID;
INSERT INTO "announcements" VALUES('acme','bad','1.0.0','71a87265241bd2b8370248576ba41e6b284a8a260b6fa1fbca4b1a57a1ddba55','{"shell/bad.sh": ["sha256:079d22b1cfc0046aa651cf3bc15d88d05d0b74b2c5d0588c8bbcea12fec313ee", 9]}',1);
INSERT INTO "announcements" VALUES('acme','gone','1.0.0','41e36e8404cfb399b19179035cb4452d9ddd33093183d475b0ce2214e558e22c','{"shell/gone.sh": ["sha256:79071e0638b664db2b9ee8deda408e324161eff409c5427f66d275d3c2cbf1fa", 10]}',1);
INSERT INTO "announcements" VALUES('acme','stop','1.0.0','8a82c16c8c55e4a51dbe65b67545c096a8b6deb18b79e7a75bf7451fea0ea938','{"shell/stop.sh": ["sha256:07db12bd6452675efab5ceaae40421f72e29b25826a35575fc9182ffa8f981f3", 10], "parameters.json": ["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", 2]}',1);
INSERT INTO "announcements" VALUES('acme','stop','1.1.0','4a20f683e0124f8a915941308842f7b364423bc7106b8181fecf957f4aeb7c68','{"shell/stop.sh": ["sha256:5a9ef97b66ebc443dcb46710335029b652163aa2b7401bd14e115c2cee998d23", 14]}',1);
INSERT INTO "announcements" VALUES('acme','stop','1.2.0','7ea33055c72ba3e491caa9bd326e6f4090bec3d938cddb4945d43dd7a53b9ba8','{"shell/stop.sh": ["sha256:79e00fd5b8049aa000e39711bc9ea4930808d30d0bc50e04184eee8501d387ee", 14]}',1);
INSERT INTO "announcements" VALUES('other','stop','1.0.0','8cd471bb31e096fbfc17e48f9ac049b9406ec32665a3e8db3870156557dfcce8','{"shell/stop.sh": ["sha256:2477f9f055ec3d6315b91a3efa8410101bdc45261d3b9b541ef8b77b34d26f66", 11]}',1);
CREATE TABLE answers (
    tenant_id TEXT NOT NULL, key TEXT NOT NULL, body_digest TEXT NOT NULL, answer TEXT NOT NULL,
    playbook_id TEXT NOT NULL, version TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) WITHOUT ROWID;
INSERT INTO "answers" VALUES('acme','112918cd8d2644079f20e8eceaed9892','fe33733aff8841b1df0f7ebe265833024a274d4fd940e0dae5da9186e17b9240','{"revision": 1, "status": "pending_review", "storage_strategy": "uploaded_for_review", "published_at": 1795814648}','stop','1.0.0',1795814648);
INSERT INTO "answers" VALUES('acme','2b293ee1fce34fccafc7ec02076f9984','d713a07a4d39fa7bb62fcdcca0e051c901abac69b2762226b8bae848b6c69d20','{"revision": 1, "status": "pending_review", "storage_strategy": "uploaded_for_review", "published_at": 1795814648}','stop','1.2.0',1795814648);
INSERT INTO "answers" VALUES('acme','8ad859127638453799c13bb548925a15','247e911a6a30d93bd305266937ea438f5bb20b0d0055b037fe6fa33e8f97a911','{"revision": 1, "status": "pending_review", "storage_strategy": "uploaded_for_review", "published_at": 1795814648}','stop','1.1.0',1795814648);
INSERT INTO "answers" VALUES('acme','c8055680f2b6465ab9207f6da9419258','5e1905cf9c6d5e8ea32e02a067682bfdc4e6fe35eb421914ea2d6d051fc12a47','{"revision": 1, "status": "pending_review", "storage_strategy": "uploaded_for_review", "published_at": 1795814648}','bad','1.0.0',1795814648);
INSERT INTO "answers" VALUES('other','8cf07fd20d5f4b418d6724c0035b476f','e628953f98e00d53bdcb9e61b9c4f69a9473a65edcaba14caa140e506147371e','{"revision": 1, "status": "pending_review", "storage_strategy": "uploaded_for_review", "published_at": 1795814648}','stop','1.0.0',1795814648);
CREATE TABLE executions (
    tenant_id TEXT NOT NULL, execution_id TEXT NOT NULL,
    playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    success INTEGER NOT NULL, duration_ms INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, execution_id)
) WITHOUT ROWID;
INSERT INTO "executions" VALUES('acme','run-1','stop','1.1.0',1,10,1700000000);
CREATE TABLE library_vectors (
    text_digest TEXT PRIMARY KEY, vector BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('epoch','6078fc2598a6');
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE objects (
    tenant_id TEXT NOT NULL, checksum TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, checksum)
) WITHOUT ROWID;
INSERT INTO "objects" VALUES('acme','sha256:079d22b1cfc0046aa651cf3bc15d88d05d0b74b2c5d0588c8bbcea12fec313ee',9);
INSERT INTO "objects" VALUES('acme','sha256:07db12bd6452675efab5ceaae40421f72e29b25826a35575fc9182ffa8f981f3',10);
INSERT INTO "objects" VALUES('acme','sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a',2);
INSERT INTO "objects" VALUES('acme','sha256:5a9ef97b66ebc443dcb46710335029b652163aa2b7401bd14e115c2cee998d23',14);
INSERT INTO "objects" VALUES('acme','sha256:79071e0638b664db2b9ee8deda408e324161eff409c5427f66d275d3c2cbf1fa',10);
INSERT INTO "objects" VALUES('acme','sha256:79e00fd5b8049aa000e39711bc9ea4930808d30d0bc50e04184eee8501d387ee',14);
INSERT INTO "objects" VALUES('other','sha256:2477f9f055ec3d6315b91a3efa8410101bdc45261d3b9b541ef8b77b34d26f66',11);
CREATE TABLE tenants (
    tenant_id TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL DEFAULT 0,
    requests INTEGER NOT NULL DEFAULT 0,
    bytes_received INTEGER NOT NULL DEFAULT 0,
    bytes_sent INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO "tenants" VALUES('acme',11,23,59,0);
INSERT INTO "tenants" VALUES('other',1,3,11,0);
CREATE TABLE tokens (
    token_hash TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, role TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "tokens" VALUES('51054e2f36caa0059338267be9fda5d72a7bb3b3cf107bbda8217b03492851e7','acme','reviewer');
INSERT INTO "tokens" VALUES('6c67163bbed989f232b31acc4f04df54b31285bfc01bd022c735b71e041a4754','other','member');
INSERT INTO "tokens" VALUES('f8f99f64da225459ac0be9ef2072ce99d07388bc74a649391177e6419bf05740','acme','member');
CREATE TABLE versions (
    tenant_id TEXT NOT NULL, playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    revision INTEGER NOT NULL, seq INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
    content_digest TEXT NOT NULL, metadata TEXT NOT NULL, files TEXT NOT NULL,
    status TEXT NOT NULL, storage_strategy TEXT NOT NULL,
    deprecated_by TEXT, deprecation_reason TEXT,
    published_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    execution_count INTEGER NOT NULL DEFAULT 0, success_count INTEGER NOT NULL DEFAULT 0,
    last_executed INTEGER,
    vector BLOB, embedding_model TEXT,
    PRIMARY KEY (tenant_id, playbook_id, version)
);
INSERT INTO "versions" VALUES('acme','stop','1.0.0',3,5,0,'sha256:e09f50d8978fedb65e33e9559e8daf6a0409b50919cd95e086cda8de1fcffbe6','{"playbook_id": "stop", "version": "1.0.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[["parameters.json", "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", 2], ["shell/stop.sh", "sha256:07db12bd6452675efab5ceaae40421f72e29b25826a35575fc9182ffa8f981f3", 10]]','deprecated','uploaded_trusted','1.1.0','version 1.1.0 was approved',1795814648,1795814648,0,0,NULL,X'0000803F00000000','test-model');
INSERT INTO "versions" VALUES('acme','stop','1.1.0',2,11,0,'sha256:0864200a9b7dc98df7dbca30d782c3f30ab50305e2c064a9f70b1c2c85744fc1','{"playbook_id": "stop", "version": "1.1.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[["shell/stop.sh", "sha256:5a9ef97b66ebc443dcb46710335029b652163aa2b7401bd14e115c2cee998d23", 14]]','approved','uploaded_trusted',NULL,NULL,1795814648,1795814648,1,1,1700000000,X'0000803F00000000','test-model');
INSERT INTO "versions" VALUES('acme','stop','1.2.0',1,6,0,'sha256:36ebf9fe54f4d6c1eaf84972224a6cf0150ebce3be3185f532e5f7ba1e7f93bc','{"playbook_id": "stop", "version": "1.2.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[["shell/stop.sh", "sha256:79e00fd5b8049aa000e39711bc9ea4930808d30d0bc50e04184eee8501d387ee", 14]]','pending_review','uploaded_for_review',NULL,NULL,1795814648,1795814648,0,0,NULL,X'0000803F00000000','test-model');
INSERT INTO "versions" VALUES('acme','gone','1.0.0',2,8,1,'sha256:280283efe3bfd27b39c23cbc30d5980e0ba5670a0e9c8c7c95688df87ff405d4','{"playbook_id": "gone", "version": "1.0.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[]','pending_review','uploaded_for_review',NULL,NULL,1795814648,1795814648,0,0,NULL,NULL,'test-model');
INSERT INTO "versions" VALUES('acme','bad','1.0.0',2,10,0,'sha256:9b2bb23e2363203abd886d2d99113aac63deca84cd08f1f68b5a32366e30525a','{"playbook_id": "bad", "version": "1.0.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[["shell/bad.sh", "sha256:079d22b1cfc0046aa651cf3bc15d88d05d0b74b2c5d0588c8bbcea12fec313ee", 9]]','rejected','uploaded_for_review',NULL,'no rollback',1795814648,1795814648,0,0,NULL,X'0000803F00000000','test-model');
INSERT INTO "versions" VALUES('other','stop','1.0.0',1,1,0,'sha256:e14a2aa09c1d56a97d5ea78ef25ea65a9d1ab24cb11ad73364e3295027c82372','{"playbook_id": "stop", "version": "1.0.0", "name": "Stop instances", "description": "Stops idle instances.", "cloud_provider": ["aws"], "resource_types": ["ec2::instance"], "keywords": ["stop"], "storage_strategy": "uploaded_for_review", "status": "ready", "x_newer_field": {"kept": true}}','[["shell/stop.sh", "sha256:2477f9f055ec3d6315b91a3efa8410101bdc45261d3b9b541ef8b77b34d26f66", 11]]','pending_review','uploaded_for_review',NULL,NULL,1795814648,1795814648,0,0,NULL,X'0000803F00000000','test-model');
CREATE UNIQUE INDEX versions_by_seq ON versions (tenant_id, seq);
CREATE INDEX answers_by_version ON answers (tenant_id, playbook_id, version);
CREATE INDEX answers_by_age ON answers (created_at);
COMMIT;
